// Vsock under guests and hosts that want too much, and across snapshots.
#include <sys/mman.h>
#include <sys/resource.h>

#include <thread>

#include "tests/vmm/virtio/vsock_guest.h"
#include "vmm/virtio/vsock.h"

namespace volt::virtio {
namespace {

struct VsockLoadTest : VsockFixture {};

TEST_F(VsockLoadTest, SendsNoMoreThanTheGuestHasRoomFor) {
  guest->start();
  guest->window = 100;
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  const std::string text(1000, 'c');
  put(host, text);
  EXPECT_EQ(guest->receive_data(100).size(), 100u);
  guest->receive(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  guest->send(52, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  ASSERT_TRUE(guest->all_taken());
  EXPECT_FALSE(guest->try_receive()) << "an update that gives nothing is not asked about again";
  guest->forwarded = 60;
  guest->send(52, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  EXPECT_EQ(guest->receive_data(60).size(), 60u);
  guest->receive(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  guest->window = 5000;
  guest->forwarded = 160;
  guest->send(52, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  EXPECT_EQ(guest->receive_data(840).size(), 840u);
}

TEST_F(VsockLoadTest, CreditThatMakesNoSenseIsNone) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  guest->forwarded = 5;  // of nothing
  guest->send(52, port, VIRTIO_VSOCK_OP_CREDIT_UPDATE);
  ASSERT_TRUE(guest->all_taken());
  put(host, "data");
  guest->receive(VIRTIO_VSOCK_OP_CREDIT_REQUEST);
}

TEST_F(VsockLoadTest, TellsTheGuestWhenThereIsRoomAgain) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  const std::string piece(32'000, 'p');
  std::uint32_t sent = 0, told = 0;
  for (int i = 0; i < 40; ++i) {
    while (sent - told + piece.size() > VsockConnection::kWindowBytes) {
      told = guest->receive(VIRTIO_VSOCK_OP_CREDIT_UPDATE).head.forwarded;
    }
    guest->send(52, port, VIRTIO_VSOCK_OP_RW, piece);
    sent += static_cast<std::uint32_t>(piece.size());
    EXPECT_EQ(get(host, piece.size()), piece);
  }
  guest->send(52, port, VIRTIO_VSOCK_OP_CREDIT_REQUEST);
  while (told != sent) told = guest->receive(VIRTIO_VSOCK_OP_CREDIT_UPDATE).head.forwarded;
}

TEST_F(VsockLoadTest, AHostThatDoesNotReadHoldsNobodyUp) {
  guest->start();
  std::uint32_t stuck_port = 0, other_port = 0;
  const Fd stuck = opened(52, &stuck_port);
  const Fd other = opened(53, &other_port);
  // The sockets' buffers take some, the window the rest; then the guest breaks its promise.
  const std::string piece(60'000, 's');
  bool was_reset = false;
  for (int i = 0; i < 1000 && !was_reset; ++i) {
    guest->send(52, stuck_port, VIRTIO_VSOCK_OP_RW, piece);
    ASSERT_TRUE(guest->all_taken());
    while (const auto packet = guest->try_receive()) {
      was_reset = was_reset || packet->head.op == VIRTIO_VSOCK_OP_RST;
    }
    guest->send(53, other_port, VIRTIO_VSOCK_OP_RW, "alive");
    EXPECT_EQ(get(other, 5), "alive");
  }
  EXPECT_TRUE(was_reset) << "what the guest may send is bounded";
}

TEST_F(VsockLoadTest, AThousandStreams) {
  rlimit files = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &files), 0);
  files.rlim_cur = files.rlim_max;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &files), 0);
  if (files.rlim_cur < 2200) GTEST_SKIP() << "only " << files.rlim_cur << " descriptors";
  guest->start();
  std::vector<std::pair<Fd, std::uint32_t>> streams;
  for (std::uint32_t i = 0; i < 1000; ++i) {
    Fd ours = vsock->connect(i).value();
    set_patience(ours);
    streams.emplace_back(std::move(ours), guest->accept(i));
  }
  for (std::uint32_t i = 0; i < 1000; ++i) {
    guest->send(i, streams[i].second, VIRTIO_VSOCK_OP_RW, std::to_string(i));
  }
  for (std::uint32_t i = 0; i < 1000; ++i) {
    const std::string text = std::to_string(i);
    EXPECT_EQ(get(streams[i].first, text.size()), text);
    put(streams[i].first, text);
    EXPECT_EQ(guest->receive_data(text.size()), text);
  }
}

TEST_F(VsockLoadTest, ConnectionsAreBounded) {
  make(4);
  guest->start();
  std::vector<Fd> streams;
  std::uint32_t port = 0;
  for (std::uint32_t i = 0; i < 4; ++i) streams.push_back(opened(i, &port));
  EXPECT_EQ(vsock->connect(9).error().code, Code::kBusy);
  EXPECT_TRUE(ended(unix_socket(path(), false)));
  const Fd listener = unix_socket(path() + "_80", true);
  guest->send(1, 80, VIRTIO_VSOCK_OP_REQUEST);
  guest->receive(VIRTIO_VSOCK_OP_RST);
  // One that the host has left makes room, though the guest never confirms it.
  streams.pop_back();
  for (std::uint32_t flags = 0; flags != 3;) {
    flags = guest->receive(VIRTIO_VSOCK_OP_SHUTDOWN).head.flags;
  }
  opened(9);
}

// Each packet earns an RST, and the guest never makes room for one.
TEST_F(VsockLoadTest, AGuestThatFloodsIsNotListenedTo) {
  guest->start(0);
  const PacketHead head = {.source_cid = kTestCid,
                           .target_cid = kHostCid,
                           .source_port = 1,
                           .target_port = 2,
                           .op = VIRTIO_VSOCK_OP_RW};
  const PacketHeadBytes bytes = encode(head);
  std::ranges::copy(bytes, driver->bytes(VsockGuest::kSend, bytes.size()).begin());
  const auto flood = [&] {
    while (driver->take_used(VsockMux::kFromGuest)) {
    }
    while (driver->add(VsockMux::kFromGuest, {VsockGuest::kSend, 44, false})) {
    }
    driver->notify(VsockMux::kFromGuest);
  };
  // 256 refusals are kept; the ring holds 64 more.
  ASSERT_TRUE(driver->wait_until([&] {
    flood();
    return driver->used_index(VsockMux::kFromGuest) == 256;
  }));
  flood();
  // Once it takes its answers, it goes on.
  std::uint32_t answers = 0;
  for (std::uint16_t i = 0; i < 64; ++i) {
    driver->add(VsockMux::kToGuest,
                {VsockGuest::kReceive + 4608u * i, VsockGuest::kBufferBytes, true});
  }
  driver->notify(VsockMux::kToGuest);
  while (answers < 320) {
    EXPECT_EQ(guest->receive().head.op, VIRTIO_VSOCK_OP_RST);
    ++answers;
  }
  opened(52);
}

// A fuzzer's: the device asked the stream for data again and again.
TEST_F(VsockLoadTest, BuffersForAHeadAloneTakeNoData) {
  guest->start(1);
  const Fd other = unix_socket(path(), false);
  put(other, "CONNECT 52\n");
  EXPECT_TRUE(driver->wait_until([&] { return driver->used_index(VsockMux::kToGuest) == 1; }));
  ASSERT_TRUE(driver->add(VsockMux::kToGuest, {VsockGuest::kReceive + 0x10000, 44, true}));
  const std::uint32_t from = driver->word<std::uint32_t>(VsockGuest::kReceive + 16);
  put(other, "data");
  guest->send(52, from, VIRTIO_VSOCK_OP_RESPONSE);
  EXPECT_EQ(get_line(other), "OK " + std::to_string(from));
  // It still hears the guest, and says what fits.
  guest->send(52, from, VIRTIO_VSOCK_OP_SHUTDOWN, {}, 3);
  EXPECT_TRUE(driver->wait_until([&] { return driver->used_index(VsockMux::kToGuest) == 2; }));
  EXPECT_TRUE(ended(other));
}

TEST_F(VsockLoadTest, AGuestsResetDropsItsStreams) {
  guest->start();
  const Fd host = opened(52);
  driver->write32(VIRTIO_MMIO_STATUS, 0);
  EXPECT_TRUE(ended(host));
  guest.emplace(*driver);
  guest->start();
  opened(52);
}

TEST_F(VsockLoadTest, APausedDeviceLeavesMemoryAlone) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  device->pause();
  const std::uint16_t before = driver->used_index(VsockMux::kToGuest);
  put(host, "while it sleeps");
  guest->send(52, port, VIRTIO_VSOCK_OP_RW, "too");
  const Fd ours = vsock->connect(53).value();
  // The device's thread has been round at least once since: it turns a bad greeting away.
  const Fd other = unix_socket(path(), false);
  put(other, "nonsense\n");
  EXPECT_TRUE(ended(other));
  EXPECT_EQ(driver->used_index(VsockMux::kToGuest), before);
  device->resume();
  EXPECT_EQ(get(host, 3), "too");
  std::size_t requests = 0, bytes = 0;
  while (requests < 1 || bytes < 15) {
    const auto packet = guest->receive();
    requests += packet.head.op == VIRTIO_VSOCK_OP_REQUEST ? 1 : 0;
    bytes += packet.data.size();
  }
}

TEST_F(VsockLoadTest, APauseHoldsAnywhereInTraffic) {
  constexpr std::size_t kBytes = 1 << 20;
  guest->start();
  guest->window = 4 * kBytes;
  const Fd host = opened(52);
  std::thread writer([&] { put(host, std::string(kBytes, 'w')); });
  std::thread pauser([&] {
    for (int i = 0; i < 200; ++i) {
      device->pause();
      const std::uint16_t used = driver->used_index(VsockMux::kToGuest);
      const Result<MmioState> state = device->save();
      EXPECT_EQ(state->queues[VsockMux::kToGuest].next_used, used);
      EXPECT_EQ(*device->save(), *state);
      EXPECT_EQ(driver->used_index(VsockMux::kToGuest), used);
      device->resume();
    }
  });
  EXPECT_EQ(guest->receive_data(kBytes), std::string(kBytes, 'w'));
  writer.join();
  pauser.join();
}

TEST_F(VsockLoadTest, WithoutDescriptorsProgramsAreTurnedAway) {
  guest->start();
  const Fd host(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_TRUE(host.valid());
  set_patience(host);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::ranges::copy(path(), std::begin(address.sun_path));
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit none_left = before;
  none_left.rlim_cur = static_cast<rlim_t>(Fd(::dup(host.get())).get());
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none_left), 0);
  EXPECT_EQ(::connect(host.get(), static_cast<const sockaddr*>(static_cast<void*>(&address)),
                      sizeof address),
            0);
  EXPECT_TRUE(ended(host));
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
  opened(52);
}

// The guest goes on with another device, perhaps on another host, that has been told to begin anew.
struct VsockRestoreTest : VsockFixture {
  void restore() {
    device->pause();
    const MmioState registers = device->save().value();
    const VsockState state = vsock->save();
    const Driver old_driver = *driver;
    const VsockGuest old_guest = *guest;
    make();
    device->pause();
    ASSERT_TRUE(device->load(registers));
    ASSERT_TRUE(vsock->load(state));
    EXPECT_EQ(vsock->save(), state);
    vsock->transport_reset();
    device->resume();
    driver->adopt(old_driver);
    guest->adopt(old_guest);
  }
  void see_event() {
    const auto used = driver->take_used(VsockMux::kEvents);
    ASSERT_TRUE(used);
    EXPECT_EQ(used->written, 4u);
    ASSERT_TRUE(driver->add(VsockMux::kEvents, {VsockGuest::kEvent, 4, true}));
    driver->notify(VsockMux::kEvents);
  }
  [[nodiscard]] bool told(std::uint16_t times) const {
    return driver->wait_until([&] { return driver->used_index(VsockMux::kEvents) == times; });
  }
  // The device's thread has been round since: it turns a bad greeting away.
  void expect_silence() {
    const Fd other = unix_socket(path(), false);
    put(other, "nonsense\n");
    EXPECT_TRUE(ended(other));
    while (const auto packet = guest->try_receive()) {
      EXPECT_NE(packet->head.target_port, 99u) << "the driver has not seen the event yet";
    }
  }
};

TEST_F(VsockRestoreTest, OnlyListenersAreLeft) {
  guest->start();
  std::uint32_t port = 0;
  const Fd before = opened(52, &port);
  guest->send(52, port, VIRTIO_VSOCK_OP_RW, "mid traffic");
  put(before, "mid traffic");
  restore();
  while (!ended(before)) {
  }
  const Fd early = vsock->connect(99).value();
  ASSERT_TRUE(told(1));
  EXPECT_EQ(driver->word<std::uint32_t>(VsockGuest::kEvent), 0u);
  expect_silence();
  see_event();
  // What was under way may be answered too, before this.
  guest->send(77, port, VIRTIO_VSOCK_OP_RW, "are you there?");
  bool asked = false, reset = false;
  while (!asked || !reset) {
    const auto packet = guest->receive();
    asked = asked || (packet.head.op == VIRTIO_VSOCK_OP_REQUEST && packet.head.target_port == 99);
    reset = reset || (packet.head.op == VIRTIO_VSOCK_OP_RST && packet.head.target_port == 77);
  }
  opened(54);
}

TEST_F(VsockRestoreTest, EachRestoreIsSeenBeforeAnythingElse) {
  guest->start();
  restore();
  ASSERT_TRUE(told(1));
  restore();  // the driver has not looked yet
  const Fd early = vsock->connect(99).value();
  ASSERT_TRUE(told(2));
  see_event();
  expect_silence();
  see_event();
  guest->accept(99);
  ASSERT_TRUE(guest->all_taken());
  EXPECT_EQ(vsock->save().unseen, VsockMux::Unseen());
  restore();
  ASSERT_TRUE(told(3));
  see_event();
  opened(53);
}

TEST_F(VsockLoadTest, ANewCidIsInConfigSpace) {
  guest->start();
  const std::uint32_t generation = driver->read32(VIRTIO_MMIO_CONFIG_GENERATION);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG), kTestCid);
  ASSERT_TRUE(vsock->set_guest_cid(4242));
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG), 4242u);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG + 4), 0u);
  EXPECT_EQ(driver->read32(VIRTIO_MMIO_CONFIG_GENERATION), generation + 1);
  EXPECT_EQ(vsock->save().guest_cid, 4242u);
  EXPECT_EQ(vsock->load({.guest_cid = 2}).error().code, Code::kInvalid);
  const VsockState unlikely = {.guest_cid = 9, .unseen = {.resets = 17, .published = 0}};
  EXPECT_EQ(vsock->load(unlikely).error().code, Code::kInvalid);
  EXPECT_EQ(vsock->save().guest_cid, 4242u);
}

TEST_F(VsockLoadTest, ALostPageStopsTheDeviceAndIsTold) {
  guest->start();
  std::uint32_t port = 0;
  const Fd host = opened(52, &port);
  const std::span<std::byte> page = driver->bytes(VsockGuest::kReceive, 64 * 4608);
  ASSERT_EQ(::mprotect(page.data(), page.size(), PROT_NONE), 0);
  put(host, "x");
  EXPECT_TRUE(ended(host)) << "its streams end";
  EXPECT_EQ(lost, Code::kPageLost);
}

}  // namespace
}  // namespace volt::virtio
