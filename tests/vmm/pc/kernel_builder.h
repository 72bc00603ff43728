// Small kernels' files, right unless a test says otherwise, and what packs them.
#pragma once

#include <asm/bootparam.h>
#include <elf.h>
#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <span>
#include <string_view>
#include <vector>

#include "tests/vmm/elf_builder.h"

namespace volt::pc {

using Bytes = std::vector<std::byte>;

inline void append(Bytes& to, std::span<const std::byte> from) {
  to.insert(to.end(), from.begin(), from.end());
}

template <typename T>
void append_value(Bytes& to, const T& value) {
  append(to, std::as_bytes(std::span(&value, 1)));
}

// A vmlinux: code at 16 MiB, whose memory is larger than its bytes, and a PVH note.
struct VmlinuxParts {
  Elf64_Ehdr head;
  Elf64_Phdr text;
  Elf64_Phdr notes;
  Elf64_Nhdr note_head;
  char note_name[4];
  std::uint64_t pvh_entry;
  char banner[40];
  std::byte code[64];
};

inline constexpr std::uint64_t kTestKernel = 0x100'0000;
inline constexpr std::uint64_t kTestKernelMemory = 0x3000;

inline VmlinuxParts good_vmlinux() {
  VmlinuxParts parts = {};
  parts.head = vmm::good_elf_head(offsetof(VmlinuxParts, text), kTestKernel);
  parts.text.p_type = PT_LOAD;
  parts.text.p_offset = offsetof(VmlinuxParts, code);
  parts.text.p_vaddr = 0xFFFF'FFFF'8100'0000;
  parts.text.p_paddr = kTestKernel;
  parts.text.p_filesz = sizeof parts.code;
  parts.text.p_memsz = kTestKernelMemory;
  parts.notes.p_type = PT_NOTE;
  parts.notes.p_offset = offsetof(VmlinuxParts, note_head);
  parts.notes.p_filesz = offsetof(VmlinuxParts, banner) - offsetof(VmlinuxParts, note_head);
  parts.note_head = {.n_namesz = 4, .n_descsz = 8, .n_type = 18};
  std::memcpy(parts.note_name, "Xen", 4);
  parts.pvh_entry = kTestKernel + 32;
  std::memcpy(parts.banner, "Linux version %s Linux version 9.8 (me)", 40);
  for (std::byte& each : parts.code) each = std::byte{0xF4};
  return parts;
}

inline Bytes bytes_of(const VmlinuxParts& parts) {
  const auto bytes = std::as_bytes(std::span(&parts, 1));
  return {bytes.begin(), bytes.end()};
}

inline Bytes lz4_of(std::span<const std::byte> plain) {
  constexpr std::size_t kChunk = 8 << 20;
  Bytes packed;
  append_value(packed, std::uint32_t{0x184C'2102});
  for (std::size_t at = 0; at < plain.size(); at += kChunk) {
    const auto chunk = plain.subspan(at, std::min(kChunk, plain.size() - at));
    Bytes out(static_cast<std::size_t>(LZ4_compressBound(static_cast<int>(chunk.size()))));
    const int bytes = LZ4_compress_default(
        reinterpret_cast<const char*>(chunk.data()), reinterpret_cast<char*>(out.data()),
        static_cast<int>(chunk.size()), static_cast<int>(out.size()));
    append_value(packed, static_cast<std::uint32_t>(bytes));
    append(packed, std::span(out).first(static_cast<std::size_t>(bytes)));
  }
  return packed;
}

inline Bytes zstd_of(std::span<const std::byte> plain) {
  Bytes packed(ZSTD_compressBound(plain.size()));
  packed.resize(ZSTD_compress(packed.data(), packed.size(), plain.data(), plain.size(), 3));
  return packed;
}

inline Bytes gzip_of(std::span<const std::byte> plain) {
  Bytes packed(plain.size() + 1024);
  Bytes copy(plain.begin(), plain.end());
  z_stream stream = {};
  ::deflateInit2(&stream, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY);
  stream.next_in = reinterpret_cast<Bytef*>(copy.data());
  stream.avail_in = static_cast<uInt>(copy.size());
  stream.next_out = reinterpret_cast<Bytef*>(packed.data());
  stream.avail_out = static_cast<uInt>(packed.size());
  ::deflate(&stream, Z_FINISH);
  packed.resize(stream.total_out);
  ::deflateEnd(&stream);
  return packed;
}

inline Bytes xz_of(std::span<const std::byte> plain) {
  Bytes packed(plain.size() + 4096);
  std::size_t bytes = 0;
  [[maybe_unused]] const lzma_ret status = ::lzma_easy_buffer_encode(
      1, LZMA_CHECK_CRC32, nullptr, reinterpret_cast<const std::uint8_t*>(plain.data()),
      plain.size(), reinterpret_cast<std::uint8_t*>(packed.data()), &bytes, packed.size());
  packed.resize(bytes);
  return packed;
}

// What a kernel's build puts behind a payload that does not end with its size by itself.
inline Bytes with_size(Bytes packed, std::size_t plain_bytes) {
  append_value(packed, static_cast<std::uint32_t>(plain_bytes));
  return packed;
}

struct BzImageParts {
  setup_header header = {};
  std::string_view version = "6.1.0-test (someone) #1";
  Bytes payload;
};

inline constexpr std::uint32_t kTestPayloadAt = 0x280;

inline BzImageParts good_bz_image() {
  BzImageParts parts;
  parts.header.setup_sects = 1;
  parts.header.boot_flag = 0xAA55;
  parts.header.jump = 0x6AEB;
  parts.header.header = 0x5372'6448;
  parts.header.version = 0x20F;
  parts.header.kernel_version = 0x100;  // of the file: 0x300
  parts.header.loadflags = LOADED_HIGH;
  parts.header.xloadflags = XLF_KERNEL_64;
  parts.header.initrd_addr_max = 0x7FFF'FFFF;
  parts.header.cmdline_size = 100;
  parts.header.kernel_alignment = 2 << 20;
  parts.header.pref_address = kTestKernel;
  parts.header.init_size = 0x10'0000;
  const Bytes vmlinux = bytes_of(good_vmlinux());
  parts.payload = with_size(lz4_of(vmlinux), vmlinux.size());
  return parts;
}

// Offsets and lengths are as the payload has them; `change` makes them wrong.
inline Bytes bytes_of(
    BzImageParts parts, const std::function<void(setup_header&)>& change = [](setup_header&) {}) {
  Bytes file(1024);
  std::memcpy(file.data() + 0x300, parts.version.data(), parts.version.size());
  file.resize(1024 + kTestPayloadAt, std::byte{0x90});
  append(file, parts.payload);
  file.resize((file.size() + 15) / 16 * 16);
  parts.header.payload_offset = kTestPayloadAt;
  parts.header.payload_length = static_cast<std::uint32_t>(parts.payload.size());
  parts.header.syssize = static_cast<std::uint32_t>((file.size() - 1024) / 16);
  change(parts.header);
  std::memcpy(file.data() + 0x1F1, &parts.header, sizeof parts.header);
  return file;
}

}  // namespace volt::pc
