// A packet between two sockets of virtio-vsock, as it is in a queue: a head and up to 64 KiB.
#pragma once

#include <linux/virtio_vsock.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace volt::virtio {

inline constexpr std::uint32_t kHostCid = 2;
inline constexpr std::size_t kPacketHeadBytes = sizeof(virtio_vsock_hdr);
static_assert(kPacketHeadBytes == 44);
using PacketHeadBytes = std::array<std::byte, kPacketHeadBytes>;

// The kernel's struct is packed, so that none of its fields can be referred to.
struct PacketHead {
  std::uint64_t source_cid;
  std::uint64_t target_cid;
  std::uint32_t source_port = 0;
  std::uint32_t target_port = 0;
  std::uint32_t bytes = 0;
  std::uint16_t type = VIRTIO_VSOCK_TYPE_STREAM;
  std::uint16_t op = VIRTIO_VSOCK_OP_INVALID;
  std::uint32_t flags = 0;
  std::uint32_t window = 0;     // how much its sender can hold
  std::uint32_t forwarded = 0;  // how much of what it was sent it has passed on, modulo 2^32
};

inline PacketHead decode(const PacketHeadBytes& bytes) {
  virtio_vsock_hdr raw;
  std::memcpy(&raw, bytes.data(), sizeof raw);
  return {.source_cid = raw.src_cid,
          .target_cid = raw.dst_cid,
          .source_port = raw.src_port,
          .target_port = raw.dst_port,
          .bytes = raw.len,
          .type = raw.type,
          .op = raw.op,
          .flags = raw.flags,
          .window = raw.buf_alloc,
          .forwarded = raw.fwd_cnt};
}

inline PacketHeadBytes encode(const PacketHead& head) {
  const virtio_vsock_hdr raw = {.src_cid = head.source_cid,
                                .dst_cid = head.target_cid,
                                .src_port = head.source_port,
                                .dst_port = head.target_port,
                                .len = head.bytes,
                                .type = head.type,
                                .op = head.op,
                                .flags = head.flags,
                                .buf_alloc = head.window,
                                .fwd_cnt = head.forwarded};
  PacketHeadBytes bytes;
  std::memcpy(bytes.data(), &raw, sizeof raw);
  return bytes;
}

}  // namespace volt::virtio
