// The built-in guest's ELF file, read the way a loader and a CPU would: memory content by address,
// notes by name, and page-table walks. A malformed file fails a CHECK-like throw, never quietly.
#pragma once

#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "tools/guest/micro_image.h"
#include "vmm/guest_abi.h"

namespace volt {

class Image {
 public:
  Image() : file_(tools::micro_image()), header_(from_file<Elf64_Ehdr>(0)) {
    for (std::uint64_t i = 0; i < header_.e_phnum; ++i) {
      const auto segment = from_file<Elf64_Phdr>(header_.e_phoff + i * sizeof(Elf64_Phdr));
      segments_.push_back(segment);
      if (segment.p_type != PT_LOAD) continue;
      const auto bytes = file_.subspan(segment.p_offset, segment.p_filesz);
      const std::uint64_t end = segment.p_paddr + segment.p_memsz;
      if (memory_.size() < end) memory_.resize(end);
      std::memcpy(memory_.data() + segment.p_paddr, bytes.data(), bytes.size());
    }
  }

  std::size_t file_bytes() const { return file_.size(); }
  const Elf64_Ehdr& header() const { return header_; }
  const std::vector<Elf64_Phdr>& segments() const { return segments_; }

  std::vector<Elf64_Phdr> loads() const {
    std::vector<Elf64_Phdr> found;
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type == PT_LOAD) found.push_back(segment);
    }
    return found;
  }

  // Guest memory as it is before the first instruction.
  template <typename T>
  T at(std::uint64_t address) const {
    if (address > memory_.size() || memory_.size() - address < sizeof(T)) {
      throw std::out_of_range("no segment there");
    }
    T value;
    std::memcpy(&value, memory_.data() + address, sizeof value);
    return value;
  }

  std::optional<std::span<const std::byte>> note(std::string_view name, std::uint32_t type) const {
    for (const Elf64_Phdr& segment : segments_) {
      if (segment.p_type != PT_NOTE) continue;
      std::uint64_t at = segment.p_offset;
      while (at < segment.p_offset + segment.p_filesz) {
        const auto head = from_file<Elf64_Nhdr>(at);
        const std::uint64_t name_at = at + sizeof head;
        const std::uint64_t body_at = name_at + (head.n_namesz + 3) / 4 * 4;
        at = body_at + (head.n_descsz + 3) / 4 * 4;
        const auto found = file_.subspan(name_at, head.n_namesz);
        const bool same = found.size() == name.size() + 1 &&
                          std::memcmp(found.data(), name.data(), name.size()) == 0;
        if (same && head.n_type == type) return file_.subspan(body_at, head.n_descsz);
      }
    }
    return std::nullopt;
  }

  guest_abi::Note volt_note() const {
    const auto found = note(guest_abi::kNoteName, guest_abi::kNoteType);
    guest_abi::Note volt = {};
    if (!found || found->size() != sizeof volt) throw std::out_of_range("no Volt note");
    std::memcpy(&volt, found->data(), sizeof volt);
    return volt;
  }

 private:
  template <typename T>
  T from_file(std::uint64_t offset) const {
    T value;
    std::memcpy(&value, file_.subspan(offset, sizeof value).data(), sizeof value);
    return value;
  }

  std::span<const std::byte> file_;
  Elf64_Ehdr header_;
  std::vector<Elf64_Phdr> segments_;
  std::vector<std::byte> memory_;
};

// What the CPU finds for a linear address; rights are those that all levels together leave.
struct Leaf {
  std::uint64_t physical;
  std::uint64_t bytes;
  bool user, writable, executable;
  bool preset;  // accessed at every level, and dirty
  bool uncached;
};

inline std::optional<Leaf> walk(const Image& image, std::uint64_t linear) {
  constexpr std::uint64_t kAddress = 0x000F'FFFF'FFFF'F000;
  Leaf leaf = {.physical = 0,
               .bytes = 0,
               .user = true,
               .writable = true,
               .executable = true,
               .preset = true,
               .uncached = false};
  std::uint64_t table = image.volt_note().cr3;
  for (int shift = 39;; shift -= 9) {
    const auto entry = image.at<std::uint64_t>(table + (linear >> shift & 511) * 8);
    if ((entry & 1) == 0) return std::nullopt;
    leaf.writable &= (entry >> 1 & 1) != 0;
    leaf.user &= (entry >> 2 & 1) != 0;
    leaf.preset &= (entry >> 5 & 1) != 0;
    leaf.executable &= entry >> 63 == 0;
    const bool is_large = shift == 21 && (entry >> 7 & 1) != 0;
    if (!is_large && shift > 12) {
      table = entry & kAddress;
      continue;
    }
    leaf.preset &= (entry >> 6 & 1) != 0;
    leaf.uncached = (entry >> 3 & 3) == 3;
    leaf.bytes = std::uint64_t{1} << shift;
    leaf.physical = entry & kAddress & ~(leaf.bytes - 1);
    return leaf;
  }
}

}  // namespace volt
