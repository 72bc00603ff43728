// The kernels of one data directory, for Linux guests.
//
//   kernels/<name>/         kernel, about.json, modules/NNN-<module>.ko in the order to load them;
//                           written once, never changed, only removed
//   kernels/.draft-*/       one being written or removed; who does it holds a lock on it
//
// A kernel appears whole: it is written and synced as a draft, which is then renamed to its name,
// and it goes the same way. What a killed command leaves behind is a draft; the next one removes
// it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "tools/kernel_modules.h"
#include "vmm/os/error.h"
#include "vmm/os/fd.h"

namespace volt::tools {

struct Kernel {
  std::string name;                  // the path, where one was given
  std::string path;                  // bzImage or vmlinux
  std::vector<std::string> modules;  // paths, in the order to load them
  std::string version;               // from here on empty, or 0, for a path
  std::string source;
  std::string sha256;
  std::uint64_t bytes = 0;
  std::uint64_t added_unix_ns = 0;
  std::string damage;  // only when listed: why it cannot be used
};

struct NewKernel {
  std::string name;
  std::string source;  // where it is from, for people
  std::string version;
  std::span<const std::byte> file;
  std::vector<KernelModule> modules;
};

// What can be a kernel's name; kInvalid says what is allowed.
Result<> check_kernel_name(const std::string& name);

class KernelStore {
 public:
  // `path` is made when a kernel is added.
  explicit KernelStore(std::string path) : path_(std::move(path)) {}
  // In the data directory of this user.
  static Result<KernelStore> open();

  // A directory for work on a kernel to come, removed with the object, or by whoever comes after a
  // command that was killed.
  class Draft {
   public:
    Draft(Draft&& other) noexcept
        : path_(std::exchange(other.path_, {})), lock_(std::move(other.lock_)) {}
    Draft& operator=(Draft&&) = delete;
    ~Draft();
    const std::string& path() const { return path_; }

   private:
    friend class KernelStore;
    Draft(std::string path, Fd lock) : path_(std::move(path)), lock_(std::move(lock)) {}
    std::string path_;  // empty once it is published
    Fd lock_;
  };
  Result<Draft> begin() const;

  // kConflict if the name is taken.
  Result<> add(const NewKernel& kernel) const;
  Result<Kernel> find(const std::string& name) const;
  // By name, damaged ones too.
  Result<std::vector<Kernel>> list() const;
  Result<> remove(const std::string& name) const;

 private:
  void sweep() const;

  std::string path_;
};

// The one added last, which runs where none was named; null if there is none.
const Kernel* default_of(std::span<const Kernel> kernels);

// What `--kernel WORD` means: a file, if there is a slash in it, else a kernel's name, else (empty,
// or "latest") the default. kNotFound says what there is.
Result<Kernel> find_kernel(const std::string& word);

}  // namespace volt::tools
