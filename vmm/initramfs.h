// Writes an archive the kernel unpacks as its first root (cpio in the form "newc"), so that Volt's
// own files can follow a user's initrd: the kernel takes archives one behind the other, whatever
// each is compressed with, and a later file replaces an earlier one of the same path.
//
//   file    := archive { zeros to a multiple of 4 archive }
//   archive := { entry } entry("TRAILER!!!"), each padded with zeros to a multiple of 4
//   entry   := "070701", 13 fields of 8 hex digits, path and its NUL, padding to 4, bytes
//
// Canonical: the same entries give the same bytes. Owner is root and the time 1970, and numbers of
// inodes count from 1; links between files are not written. Nothing is read or opened here.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "vmm/os/error.h"

namespace volt::vmm {

struct InitramfsEntry {
  enum class Kind { kFile, kDirectory, kSymlink, kCharDevice };

  std::string path;  // from the root, without a slash in front; its parents come before it
  Kind kind = Kind::kFile;
  std::uint32_t permissions = 0755;       // of 07777; a symlink has 0777 whatever this says
  std::span<const std::byte> bytes = {};  // of a file; outlives the call
  std::string target = {};                // of a symlink
  std::uint32_t major = 0, minor = 0;     // of a device
};

// /dev and its console: what PID 1 has for streams until it mounts a /dev of its own.
std::vector<InitramfsEntry> console_entries();

// kInvalid: a path that is absolute, empty, too long, or has an empty, `.` or `..` part; a symlink
// without target; a file of 4 GiB or more.
Result<std::vector<std::byte>> encode_initramfs(std::span<const InitramfsEntry> entries);

// How many zero bytes belong between an initrd of this size and the archive that follows it.
constexpr std::size_t padding_before_initramfs(std::size_t initrd_bytes) {
  return (4 - initrd_bytes % 4) % 4;
}

}  // namespace volt::vmm
