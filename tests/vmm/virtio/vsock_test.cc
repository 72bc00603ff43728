#include "vmm/virtio/vsock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

#include "tests/vmm/virtio/vsock_guest.h"
#include "vmm/virtio/vsock_sockets.h"

namespace volt::virtio {
namespace {

struct VsockTest : VsockFixture {};

TEST_F(VsockTest, AHostProgramGreetsAndTalks) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  put(host, "to the guest");
  EXPECT_EQ(guest->receive_data(12), "to the guest");
  guest->send(52, port, VIRTIO_VSOCK_OP_RW, "to the host");
  EXPECT_EQ(get(host, 11), "to the host");
}

TEST_F(VsockTest, WhatFollowsTheGreetingIsForTheGuest) {
  guest->start();
  const Fd host = unix_socket(path(), false);
  put(host, "CONNECT 52\nearly");
  const std::uint32_t port = guest->accept(52);
  EXPECT_EQ(guest->receive_data(5), "early");
  EXPECT_EQ(get_line(host), "OK " + std::to_string(port));
}

TEST_F(VsockTest, AGreetingMayComeInPieces) {
  guest->start();
  const Fd host = unix_socket(path(), false);
  for (const char each : std::string_view("CONNECT 4294967295\n")) {
    put(host, std::string_view(&each, 1));
  }
  guest->accept(UINT32_MAX);
}

TEST_F(VsockTest, OtherGreetingsAreShownTheDoor) {
  guest->start();
  for (const std::string_view line :
       {"\n", "CONNECT\n", "CONNECT \n", "CONNECT -1\n", "CONNECT 4294967296\n", "CONNECT 5 \n",
        "connect 5\n", "CONNECT 0x5\n", "GET / HTTP/1.1\r\n", "CONNECT 00000000000000000000000001",
        "CONNECT 1\r\n"}) {
    const Fd host = unix_socket(path(), false);
    put(host, line);
    EXPECT_TRUE(ended(host)) << line;
  }
  EXPECT_FALSE(guest->try_receive());
}

TEST_F(VsockTest, AGuestThatRefusesEndsTheStream) {
  guest->start();
  const Fd host = unix_socket(path(), false);
  put(host, "CONNECT 9\n");
  const auto request = guest->receive(VIRTIO_VSOCK_OP_REQUEST);
  guest->send(9, request.head.source_port, VIRTIO_VSOCK_OP_RST);
  EXPECT_TRUE(ended(host));
  const Fd ours = vsock->connect(9).value();
  const auto other = guest->receive(VIRTIO_VSOCK_OP_REQUEST);
  guest->send(9, other.head.source_port, VIRTIO_VSOCK_OP_RST);
  EXPECT_TRUE(ended(ours));
}

TEST_F(VsockTest, WithoutADriverNobodyIsReached) {
  EXPECT_EQ(vsock->connect(9).error().code, Code::kBusy);
  EXPECT_TRUE(ended(unix_socket(path(), false)));
}

TEST_F(VsockTest, TheGuestReachesAHostProgram) {
  guest->start();
  const Fd listener = unix_socket(path() + "_80", true);
  guest->send(1000, 80, VIRTIO_VSOCK_OP_REQUEST);
  const auto response = guest->receive(VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(response.head.target_port, 1000u);
  EXPECT_EQ(response.head.source_port, 80u);
  EXPECT_EQ(response.head.window, VsockConnection::kWindowBytes);
  const Fd host(::accept(listener.get(), nullptr, nullptr));
  set_patience(host);
  guest->send(1000, 80, VIRTIO_VSOCK_OP_RW, "ask");
  EXPECT_EQ(get(host, 3), "ask");
  put(host, "answer");
  EXPECT_EQ(guest->receive_data(6), "answer");
}

TEST_F(VsockTest, TheGuestIsRefusedWhereNobodyListens) {
  guest->start();
  guest->send(1000, 81, VIRTIO_VSOCK_OP_REQUEST);
  EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.target_port, 1000u);
}

TEST_F(VsockTest, VoltItselfConnectsAndListens) {
  guest->start();
  const Fd asked = vsock->connect(52).value();
  set_patience(asked);
  put(asked, "before it was accepted");
  const std::uint32_t port = guest->accept(52);
  EXPECT_EQ(guest->receive_data(22), "before it was accepted");
  guest->send(52, port, VIRTIO_VSOCK_OP_RW, "hello");
  EXPECT_EQ(get(asked, 5), "hello");

  const auto [ours, theirs] = socket_pair().value();
  vsock->listen(1024, [&](Fd socket) {
    // A handler may use the device.
    vsock->listen(1025, [](Fd) {});
    put(socket, "welcome");
    put(theirs, "x");
  });
  guest->send(2000, 1024, VIRTIO_VSOCK_OP_REQUEST);
  guest->receive(VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(guest->receive_data(7), "welcome");
  guest->receive(VIRTIO_VSOCK_OP_SHUTDOWN);
}

TEST_F(VsockTest, WhatNobodyKnowsIsReset) {
  guest->start();
  for (const std::uint16_t op :
       {VIRTIO_VSOCK_OP_INVALID, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_SHUTDOWN,
        VIRTIO_VSOCK_OP_RW, VIRTIO_VSOCK_OP_CREDIT_UPDATE, VIRTIO_VSOCK_OP_CREDIT_REQUEST}) {
    guest->send(5, 6, op);
    EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.target_port, 5u) << op;
  }
  guest->send(5, 6, VIRTIO_VSOCK_OP_RST);
  guest->send(5, 6, 99);
  EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.target_port, 5u);
  EXPECT_FALSE(guest->try_receive()) << "an RST is not answered";

  PacketHead head = {.source_cid = kTestCid,
                     .target_cid = 9,
                     .source_port = 5,
                     .target_port = 6,
                     .op = VIRTIO_VSOCK_OP_REQUEST};
  guest->send_packet(head, {});
  EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.source_cid, 9u) << "another target";
  head.target_cid = kHostCid;
  head.type = VIRTIO_VSOCK_TYPE_SEQPACKET;
  guest->send_packet(head, {});
  EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.type, VIRTIO_VSOCK_TYPE_SEQPACKET);
  head.source_cid = 1234;
  guest->send_packet(head, {});
  ASSERT_TRUE(guest->all_taken());
  EXPECT_FALSE(guest->try_receive()) << "not from this guest";
}

TEST_F(VsockTest, AnUnexpectedPacketResetsItsStream) {
  guest->start();
  for (const std::uint16_t op :
       {VIRTIO_VSOCK_OP_REQUEST, VIRTIO_VSOCK_OP_RESPONSE, VIRTIO_VSOCK_OP_INVALID}) {
    std::uint32_t port = 0;
    const Fd host = opened(52, &port);
    guest->send(52, port, op);
    EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.source_port, port) << op;
    EXPECT_TRUE(ended(host)) << op;
  }
  // Data before the stream is open.
  const Fd early = vsock->connect(3).value();
  const auto request = guest->receive(VIRTIO_VSOCK_OP_REQUEST);
  guest->send(3, request.head.source_port, VIRTIO_VSOCK_OP_RW, "no");
  guest->receive(VIRTIO_VSOCK_OP_RST);
  EXPECT_TRUE(ended(early));
}

TEST_F(VsockTest, LengthsThatLieResetTheStream) {
  guest->start();
  for (const std::uint32_t claimed : {5u, 70'000u, UINT32_MAX}) {
    std::uint32_t port = 0;
    const Fd host = opened(52, &port);
    guest->send_packet({.source_cid = kTestCid,
                        .target_cid = kHostCid,
                        .source_port = 52,
                        .target_port = port,
                        .bytes = claimed,
                        .type = VIRTIO_VSOCK_TYPE_STREAM,
                        .op = VIRTIO_VSOCK_OP_RW,
                        .flags = 0,
                        .window = kTestWindow,
                        .forwarded = 0},
                       "four");
    guest->receive(VIRTIO_VSOCK_OP_RST);
    EXPECT_TRUE(ended(host));
  }
}

TEST_F(VsockTest, PacketsWithoutAHeadNeedAReset) {
  guest->start();
  ASSERT_TRUE(driver->add(VsockMux::kFromGuest, {VsockGuest::kSend, 43, false}));
  driver->notify(VsockMux::kFromGuest);
  EXPECT_TRUE(driver->wait_until([&] { return driver->needs_reset(); }));
  EXPECT_EQ(vsock->connect(1).error().code, Code::kBusy);
  guest.emplace(*driver);
  guest->start();
  opened(52);
}

TEST_F(VsockTest, BuffersWithoutRoomForAHeadNeedAReset) {
  guest->start(0);
  ASSERT_TRUE(driver->add(VsockMux::kToGuest, {VsockGuest::kReceive, 43, true}));
  driver->notify(VsockMux::kToGuest);
  const Fd ours = vsock->connect(1).value();
  EXPECT_TRUE(driver->wait_until([&] { return driver->needs_reset(); }));
  EXPECT_TRUE(ended(ours));
}

TEST_F(VsockTest, TheEndOfOneSideIsOnlyThat) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  put(host, "last words");
  ASSERT_EQ(::shutdown(host.get(), SHUT_WR), 0);
  EXPECT_EQ(guest->receive_data(10), "last words");
  EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_SHUTDOWN).head.flags,
            std::uint32_t{VIRTIO_VSOCK_SHUTDOWN_SEND});
  guest->send(52, port, VIRTIO_VSOCK_OP_RW, "answer");
  EXPECT_EQ(get(host, 6), "answer");
  guest->send(52, port, VIRTIO_VSOCK_OP_SHUTDOWN, {}, VIRTIO_VSOCK_SHUTDOWN_SEND);
  EXPECT_TRUE(ended(host));
}

TEST_F(VsockTest, TheGuestEndsItsSideFirst) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  guest->send(52, port, VIRTIO_VSOCK_OP_RW, "last words");
  guest->send(52, port, VIRTIO_VSOCK_OP_SHUTDOWN, {}, VIRTIO_VSOCK_SHUTDOWN_SEND);
  EXPECT_EQ(get(host, 100), "last words");
  put(host, "answer");
  EXPECT_EQ(guest->receive_data(6), "answer");
  guest->send(52, port, VIRTIO_VSOCK_OP_SHUTDOWN, {},
              VIRTIO_VSOCK_SHUTDOWN_SEND | VIRTIO_VSOCK_SHUTDOWN_RCV);
  EXPECT_EQ(guest->receive(VIRTIO_VSOCK_OP_RST).head.source_port, port);
}

TEST_F(VsockTest, AHostThatLeavesIsTold) {
  guest->start();
  std::uint32_t port = 0;
  {
    const Fd host = opened(52, &port);
    put(host, "bye");
  }
  EXPECT_EQ(guest->receive_data(3), "bye");
  VsockGuest::Packet packet = guest->receive(VIRTIO_VSOCK_OP_SHUTDOWN);
  // One or two packets, by how fast the device was.
  if (packet.head.flags != 3) packet = guest->receive(VIRTIO_VSOCK_OP_SHUTDOWN);
  EXPECT_EQ(packet.head.flags, 3u);
  guest->send(52, port, VIRTIO_VSOCK_OP_RST);
  guest->send(52, port, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  guest->receive(VIRTIO_VSOCK_OP_RST);
}

// Linux waits a few seconds for the RST to its shutdown, then forgets the stream.
TEST_F(VsockTest, WhatAGuestSentBeforeItClosedIsStillDelivered) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  const int small = 4096;
  ASSERT_EQ(::setsockopt(host.get(), SOL_SOCKET, SO_RCVBUF, &small, sizeof small), 0);
  std::string data;
  const std::string piece(32'000, 'd');
  // More than the sockets hold: credit runs out.
  while (data.size() < VsockConnection::kWindowBytes - piece.size()) {
    guest->send(52, port, VIRTIO_VSOCK_OP_RW, piece);
    data += piece;
  }
  guest->send(52, port, VIRTIO_VSOCK_OP_SHUTDOWN, {}, 3);
  guest->send(52, port, VIRTIO_VSOCK_OP_RST);
  ASSERT_TRUE(guest->all_taken());
  EXPECT_EQ(get(host, data.size() + 1), data);
}

TEST_F(VsockTest, PathsThatCannotBeAreRefused) {
  EXPECT_EQ(Vsock::create({.guest_cid = 7, .path = path()}).error().code, Code::kConflict);
  EXPECT_EQ(Vsock::create({.guest_cid = 7, .path = std::string(100, 'a')}).error().code,
            Code::kInvalid);
  EXPECT_FALSE(Vsock::create({.guest_cid = 7, .path = directory + "/no/v"}));
  for (const std::uint32_t cid : {0u, 1u, 2u, UINT32_MAX}) {
    EXPECT_EQ(Vsock::create({.guest_cid = cid, .path = {}}).error().code, Code::kInvalid);
  }
  device.reset();
  EXPECT_FALSE(std::filesystem::exists(path())) << "the path is given back";
  std::ofstream(path()) << "a file";
  EXPECT_EQ(Vsock::create({.guest_cid = 7, .path = path()}).error().code, Code::kConflict);
  EXPECT_TRUE(std::filesystem::is_regular_file(path()));
}

class LeftSocketTest : public VsockTest {
 protected:
  // What a process leaves that is killed while it listens.
  void leave_socket() {
    const pid_t child = ::fork();
    if (child == 0) {
      auto listener = PathListener::bind(path());
      ::_exit(listener ? 0 : 1);
    }
    int status = 1;
    ASSERT_EQ(::waitpid(child, &status, 0), child);
    ASSERT_EQ(status, 0);
    ASSERT_TRUE(std::filesystem::is_socket(path()));
  }
};

TEST_F(LeftSocketTest, IsTakenOver) {
  device.reset();
  leave_socket();
  const auto mine = PathListener::bind(path());
  ASSERT_TRUE(mine) << mine.error().context;
  EXPECT_TRUE(connect_to_path(path()));
  const auto theirs = PathListener::bind(path());
  ASSERT_FALSE(theirs);
  EXPECT_EQ(theirs.error().code, Code::kConflict);
  EXPECT_EQ(theirs.error().context, "somebody listens at " + path());
}

TEST_F(LeftSocketTest, ALockOnTheDirectoryMattersOnlyWhereANameIsTakenOver) {
  device.reset();
  const Fd lock(::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  ASSERT_EQ(::flock(lock.get(), LOCK_EX), 0);
  EXPECT_TRUE(PathListener::bind(path()));
  EXPECT_TRUE(std::filesystem::is_empty(directory)) << "nothing is left of a draft's name";
  leave_socket();
  EXPECT_EQ(PathListener::bind(path()).error().code, Code::kBusy);
}

}  // namespace
}  // namespace volt::virtio
