// Reads of files that go on while their caller does something else: through io_uring where the
// kernel lets us, else by threads that block.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "vmm/os/error.h"

namespace volt {

class AsyncReader {
 public:
  enum class Engine { kIoUring, kThreads };

  struct Request {
    std::size_t file;  // number in `files`
    std::uint64_t offset;
    std::span<std::byte> into;  // inside `pool`
    std::uint64_t cookie;
  };
  // Called on a thread of the reader: bytes read, fewer than asked for at the file's end.
  using Done = std::function<void(std::uint64_t cookie, Result<std::size_t> got)>;

  // `files` and `pool` are registered with the kernel where it can, and outlive the reader. At most
  // `depth` requests are under way at a time: the caller sees to it. Asked for io_uring on a kernel
  // that has none or forbids it, it takes threads: engine() says which.
  static Result<std::unique_ptr<AsyncReader>> create(Engine wanted, std::span<const int> files,
                                                     std::span<std::byte> pool, unsigned depth,
                                                     Done done);
  // Waits until every request has been answered.
  virtual ~AsyncReader() = default;
  virtual Result<> submit(const Request& request) = 0;
  virtual Engine engine() const = 0;
};

constexpr std::string_view engine_name(AsyncReader::Engine engine) {
  return engine == AsyncReader::Engine::kIoUring ? "io_uring" : "threads";
}

}  // namespace volt
