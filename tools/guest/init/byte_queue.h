// Bytes on their way through, in memory that somebody else owns.
#pragma once

#include <cstddef>
#include <cstring>
#include <span>

namespace volt::init {

class ByteQueue {
 public:
  ByteQueue() = default;
  explicit ByteQueue(std::span<std::byte> memory) : memory_(memory) {}

  std::size_t size() const { return end_ - begin_; }
  std::size_t room() const { return memory_.size() - size(); }
  bool empty() const { return begin_ == end_; }
  std::span<const std::byte> front() const { return memory_.subspan(begin_, size()); }

  // All the room there is, in one piece; what was written to it is then said by grow().
  std::span<std::byte> back() {
    if (begin_ > 0) std::memmove(memory_.data(), memory_.data() + begin_, size());
    end_ -= begin_;
    begin_ = 0;
    return memory_.subspan(end_);
  }
  void grow(std::size_t bytes) { end_ += bytes; }

  // `bytes` fits into room().
  void push(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    std::memcpy(back().data(), bytes.data(), bytes.size());
    grow(bytes.size());
  }

  void drop(std::size_t bytes) {
    begin_ += bytes;
    if (begin_ == end_) begin_ = end_ = 0;
  }

 private:
  std::span<std::byte> memory_;
  std::size_t begin_ = 0, end_ = 0;
};

}  // namespace volt::init
