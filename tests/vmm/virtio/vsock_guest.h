// The guest's half of virtio-vsock, played by the test: packets in and out of its queues, word by
// word, as a driver would or would not. And host programs at the device's unix socket.
#pragma once

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <filesystem>
#include <set>
#include <string>
#include <string_view>

#include "tests/vmm/virtio/driver.h"
#include "vmm/virtio/vsock.h"

namespace volt::virtio {

inline constexpr std::uint32_t kTestCid = 7;
inline constexpr std::uint32_t kTestWindow = 64 << 10;

class VsockGuest {
 public:
  static constexpr std::uint16_t kRings = 64, kEventBuffers = 4;
  static constexpr std::uint32_t kBufferBytes = 4096 + kPacketHeadBytes;
  static constexpr std::uint32_t kSlotBytes = 70'000, kSlots = 16;
  static constexpr std::uint64_t kReceive = 0x10'0000, kEvent = 0x18'0000, kSend = 0x20'0000;

  struct Packet {
    PacketHead head;
    std::string data;
  };

  explicit VsockGuest(Driver& with) : driver(with) {}

  void start(std::uint16_t receive_buffers = kRings) {
    driver.start(0, 3, kRings);
    for (std::uint16_t i = 0; i < receive_buffers; ++i) {
      ASSERT_TRUE(driver.add(VsockMux::kToGuest, {kReceive + 4608u * i, kBufferBytes, true}));
    }
    for (std::uint16_t i = 0; i < kEventBuffers; ++i) {
      ASSERT_TRUE(driver.add(VsockMux::kEvents, {kEvent + 8u * i, 4, true}));
    }
    for (std::uint32_t i = 0; i < kSlots; ++i) slots_.insert(kSend + i * kSlotBytes);
    driver.notify(VsockMux::kToGuest);
    driver.notify(VsockMux::kEvents);
  }

  // A packet of a stream to the host; waits for a place in the queue.
  void send(std::uint32_t from, std::uint32_t to, std::uint16_t op, std::string_view data = {},
            std::uint32_t flags = 0) {
    send_packet({.source_cid = kTestCid,
                 .target_cid = kHostCid,
                 .source_port = from,
                 .target_port = to,
                 .bytes = static_cast<std::uint32_t>(data.size()),
                 .type = VIRTIO_VSOCK_TYPE_STREAM,
                 .op = op,
                 .flags = flags,
                 .window = window,
                 .forwarded = forwarded},
                data);
  }
  void send_packet(const PacketHead& head, std::string_view data) {
    ASSERT_TRUE(driver.wait_until([&] {
      while (const auto used = driver.take_used(VsockMux::kFromGuest)) {
        slots_.insert(address_of(VsockMux::kFromGuest, used->head));
      }
      return !slots_.empty();
    })) << "the device takes no packets";
    const std::uint64_t slot = *slots_.begin();
    slots_.erase(slots_.begin());
    const PacketHeadBytes bytes = encode(head);
    std::ranges::copy(bytes, driver.bytes(slot, bytes.size()).begin());
    std::ranges::copy(std::as_bytes(std::span(data)),
                      driver.bytes(slot + bytes.size(), data.size()).begin());
    const auto head_bytes = static_cast<std::uint32_t>(bytes.size());
    const Driver::Buffer parts[] = {
        {slot, head_bytes, false},
        {slot + head_bytes, static_cast<std::uint32_t>(data.size()), false}};
    ASSERT_TRUE(driver.add(VsockMux::kFromGuest, std::span(parts).first(data.empty() ? 1 : 2)));
    driver.notify(VsockMux::kFromGuest);
  }
  void adopt(const VsockGuest& other) { slots_ = other.slots_; }
  // All packets have been taken by the device.
  [[nodiscard]] bool all_taken() {
    return driver.wait_until([&] {
      while (const auto used = driver.take_used(VsockMux::kFromGuest)) {
        slots_.insert(address_of(VsockMux::kFromGuest, used->head));
      }
      return slots_.size() == kSlots;
    });
  }

  std::optional<Packet> try_receive() {
    const auto used = driver.take_used(VsockMux::kToGuest);
    if (!used) return {};
    const std::uint64_t address = address_of(VsockMux::kToGuest, used->head);
    PacketHeadBytes bytes;
    std::ranges::copy(driver.bytes(address, bytes.size()), bytes.begin());
    Packet packet = {decode(bytes), {}};
    const auto data = driver.bytes(address + bytes.size(), packet.head.bytes);
    for (const std::byte each : data) packet.data.push_back(static_cast<char>(each));
    EXPECT_EQ(used->written, kPacketHeadBytes + packet.head.bytes);
    EXPECT_TRUE(driver.add(VsockMux::kToGuest, {address, kBufferBytes, true}));
    driver.notify(VsockMux::kToGuest);
    return packet;
  }
  Packet receive() {
    std::optional<Packet> packet;
    const bool got = driver.wait_until([&] { return (packet = try_receive()).has_value(); });
    EXPECT_TRUE(got) << "no packet came";
    return packet.value_or(Packet{{}, {}});
  }
  Packet receive(std::uint16_t op) {
    Packet packet = receive();
    EXPECT_EQ(packet.head.op, op);
    return packet;
  }
  // So many bytes of a stream, in as many packets as they come.
  std::string receive_data(std::size_t bytes) {
    std::string data;
    while (data.size() < bytes) {
      const Packet packet = receive(VIRTIO_VSOCK_OP_RW);
      if (packet.data.empty()) break;
      data += packet.data;
    }
    return data;
  }
  // Takes the next request; the port of the host it came from.
  std::uint32_t accept(std::uint32_t port) {
    const Packet request = receive(VIRTIO_VSOCK_OP_REQUEST);
    EXPECT_EQ(request.head.target_port, port);
    EXPECT_EQ(request.head.source_cid, kHostCid);
    EXPECT_EQ(request.head.target_cid, kTestCid);
    send(port, request.head.source_port, VIRTIO_VSOCK_OP_RESPONSE);
    return request.head.source_port;
  }

  Driver& driver;
  std::uint32_t window = kTestWindow;
  std::uint32_t forwarded = 0;

 private:
  std::uint64_t address_of(std::uint32_t queue, std::uint32_t head) const {
    return driver.word<std::uint64_t>(Driver::descriptors(queue) + 16u * head);
  }
  std::set<std::uint64_t> slots_;
};

// ---- Host programs. Sockets that block for at most half a minute.

inline void set_patience(const Fd& socket) {
  const timeval patience = {.tv_sec = 30, .tv_usec = 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  ::setsockopt(socket.get(), SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
}

inline Fd unix_socket(const std::string& path, bool listens) {
  Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_TRUE(socket.valid());
  if (!socket.valid()) return socket;
  set_patience(socket);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::ranges::copy(path, std::begin(address.sun_path));
  const auto* generic = static_cast<const sockaddr*>(static_cast<const void*>(&address));
  const int done = listens ? ::bind(socket.get(), generic, sizeof address)
                           : ::connect(socket.get(), generic, sizeof address);
  EXPECT_EQ(done, 0) << path;
  if (listens) {
    EXPECT_EQ(::listen(socket.get(), 16), 0);
  }
  return socket;
}

inline void put(const Fd& socket, std::string_view text) {
  while (!text.empty()) {
    const ssize_t sent = ::send(socket.get(), text.data(), text.size(), MSG_NOSIGNAL);
    ASSERT_GT(sent, 0) << errno;
    text.remove_prefix(static_cast<std::size_t>(sent));
  }
}

// So many bytes, or fewer if the stream ends before.
inline std::string get(const Fd& socket, std::size_t bytes) {
  std::string text(bytes, '\0');
  std::size_t done = 0;
  while (done < bytes) {
    const ssize_t got = ::recv(socket.get(), text.data() + done, bytes - done, 0);
    EXPECT_GE(got, 0) << errno;
    if (got <= 0) break;
    done += static_cast<std::size_t>(got);
  }
  text.resize(done);
  return text;
}

inline bool ended(const Fd& socket) {
  char byte;
  const ssize_t got = ::recv(socket.get(), &byte, 1, 0);
  return got == 0 || (got < 0 && errno == ECONNRESET);
}

inline std::string get_line(const Fd& socket) {
  std::string line;
  for (std::string next = get(socket, 1); !next.empty() && next != "\n"; next = get(socket, 1)) {
    line += next;
  }
  return line;
}

struct VsockFixture : testing::Test {
  VsockFixture() { make(); }
  ~VsockFixture() override {
    device.reset();
    std::filesystem::remove_all(directory);
  }
  void make(std::size_t max_connections = 1024) {
    device.reset();
    auto made =
        Vsock::create({.guest_cid = kTestCid, .path = path(), .max_connections = max_connections});
    ASSERT_TRUE(made) << made.error().context;
    vsock = made->get();
    device = Mmio::create(std::move(*made), memory, vmm::InterruptLine::create().value(),
                          [this](const Error& error) { lost = error.code; })
                 .value();
    driver.emplace(*device, memory);
    guest.emplace(*driver);
  }
  std::string path() const { return directory + "/v"; }
  // A stream that a host program opened and the guest has accepted.
  Fd opened(std::uint32_t guest_port, std::uint32_t* host_port = nullptr) {
    Fd socket = unix_socket(path(), false);
    put(socket, "CONNECT " + std::to_string(guest_port) + "\n");
    const std::uint32_t port = guest->accept(guest_port);
    EXPECT_EQ(get_line(socket), "OK " + std::to_string(port));
    if (host_port != nullptr) *host_port = port;
    return socket;
  }

  std::string directory = [] {
    char name[] = "/tmp/volt-vsock-XXXXXX";
    return std::string(::mkdtemp(name));
  }();
  vmm::GuestMemory memory = test_memory();
  std::atomic<Code> lost = Code::kInvalid;
  Vsock* vsock = nullptr;
  std::unique_ptr<Mmio> device;
  std::optional<Driver> driver;
  std::optional<VsockGuest> guest;
};

}  // namespace volt::virtio
