#include "vmm/pc/console.h"

#include <sys/eventfd.h>

#include <algorithm>

namespace volt::pc {

Result<std::unique_ptr<Console>> Console::create(bool shown) {
  Fd event(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!event.valid()) return sys_error("eventfd");
  return std::unique_ptr<Console>(new Console(std::move(event), shown));
}

void Console::put(std::byte each) {
  const char c = static_cast<char>(each);
  const std::lock_guard lock(mutex_);
  if (kept_.size() == kKept) kept_.pop_front();
  kept_.push_back(c);
  if (!shown_) return;
  if (unseen_.size() == kMaxUnseen) {
    ++lost_;
    return;
  }
  if (unseen_.empty()) ::eventfd_write(event_.get(), 1);
  unseen_ += c;
}

std::string Console::take() {
  const std::lock_guard lock(mutex_);
  eventfd_t count;
  ::eventfd_read(event_.get(), &count);
  return std::exchange(unseen_, {});
}

std::uint64_t Console::lost() const {
  const std::lock_guard lock(mutex_);
  return lost_;
}

std::vector<std::string> Console::last_lines(std::size_t count) const {
  std::vector<std::string> lines(1);
  {
    const std::lock_guard lock(mutex_);
    for (const char c : kept_) {
      if (c == '\n') {
        lines.emplace_back();
      } else if (static_cast<unsigned char>(c) >= ' ' || c == '\t') {
        lines.back() += c;
      }
    }
  }
  std::erase_if(lines, [](const std::string& line) { return line.empty(); });
  const std::size_t first = lines.size() - std::min(lines.size(), count);
  lines.erase(lines.begin(), lines.begin() + static_cast<std::ptrdiff_t>(first));
  return lines;
}

std::string Console::panic() const {
  for (const std::string& line : last_lines(SIZE_MAX)) {
    const std::size_t at = line.find("Kernel panic - not syncing");
    if (at != std::string::npos) return line.substr(at);
  }
  return {};
}

}  // namespace volt::pc
