#include "uffd/served_clone.h"

#include <sys/mman.h>

#include <algorithm>
#include <utility>

namespace volt::uffd {
namespace {

std::byte* page_at(std::uint64_t address) {
  return reinterpret_cast<std::byte*>(address & ~(kPageBytes - 1));
}

}  // namespace

ServedClone::ServedClone(Userfaultfd uffd, std::vector<View> views, CloneOptions options,
                         std::uint64_t unit_bytes, LostPages lost_pages, ReadyLoop& loop)
    : views_(std::move(views)),
      options_(std::move(options)),
      unit_bytes_(unit_bytes),
      lost_pages_(lost_pages),
      loop_(loop),
      uffd_(std::move(uffd)) {}

std::optional<ServedClone::Place> ServedClone::place_of(std::uint64_t address) const {
  for (const View& view : views_) {
    const std::uint64_t base = reinterpret_cast<std::uintptr_t>(view.host.data());
    if (address < base || address - base >= view.host.size()) continue;
    const std::uint64_t at = (address - base) / unit_bytes_ * unit_bytes_;
    return Place{(view.image_offset + at) / unit_bytes_, view.host.subspan(at, unit_bytes_),
                 page_at(address)};
  }
  return std::nullopt;
}

std::optional<ServedClone::Place> ServedClone::place_of_unit(std::uint64_t unit) const {
  const std::uint64_t offset = unit * unit_bytes_;
  for (const View& view : views_) {
    if (offset < view.image_offset || offset - view.image_offset >= view.host.size()) continue;
    const auto range = view.host.subspan(offset - view.image_offset, unit_bytes_);
    return Place{unit, range, range.data()};
  }
  return std::nullopt;
}

Result<> ServedClone::watch(std::uint64_t key) {
  const std::lock_guard lock(mutex_);
  return loop_.watch(uffd_.fd(), key);
}

Result<std::size_t> ServedClone::read(std::span<uffd_msg> messages) {
  const std::lock_guard lock(mutex_);
  if (forgotten_) return std::size_t{0};
  return uffd_.read_messages(messages);
}

ServedClone::Answer ServedClone::show(const Place& place) {
  const std::lock_guard lock(mutex_);
  if (!forgotten_) wake(place.range);
  return Answer::kDone;
}

ServedClone::Answer ServedClone::lose(const Place& place, const Error& why, Need need) {
  {
    const std::lock_guard lock(mutex_);
    if (forgotten_) return Answer::kDone;
    note(why, need);
    auto known = std::ranges::find(lost_units_, place.unit, &LostUnit::unit);
    if (known == lost_units_.end()) {
      const Closed how = close_range(place.range);
      if (how == Closed::kNotYet) return Answer::kBusy;
      known = lost_units_.insert(known, {place.unit, how});
    }
    // A thread that came too late to see its range closed needs no more than a wake.
    if (known->how != Closed::kByOwner) {
      wake(place.range);
      return Answer::kDone;
    }
  }
  options_.on_lost(place.unit);
  return Answer::kDone;
}

void ServedClone::lose_stray(std::uint64_t address) {
  const std::lock_guard lock(mutex_);
  if (forgotten_) return;
  note({Code::kSystem, 0, "a fault outside every view of its clone"}, Need::kYes);
  const std::span<std::byte> page(page_at(address), kPageBytes);
  close_range(page);
  wake(page);
}

// What is there already cannot be poisoned, and if the range is lost it is not to be trusted.
ServedClone::Closed ServedClone::close_range(std::span<std::byte> range) {
  if (lost_pages_ == LostPages::kPoison) {
    const Closed how = poison(range);
    if (how != Closed::kForbidden) return how;
  }
  if (options_.home == CloneOptions::Home::kAnotherProcess) {
    return options_.on_lost != nullptr ? Closed::kByOwner : Closed::kPoisoned;
  }
  if (::mprotect(range.data(), range.size(), PROT_NONE) != 0) {
    note(sys_error("mprotect of a lost unit").error(), Need::kYes);
  }
  return Closed::kForbidden;
}

// kForbidden: not every page could be.
ServedClone::Closed ServedClone::poison(std::span<std::byte> range) {
  using enum Userfaultfd::Did;
  bool all = true;
  while (!range.empty()) {
    const auto outcome = uffd_.poison(range, Userfaultfd::Wake::kNo);
    if (!outcome) return Closed::kForbidden;
    std::size_t done = outcome->bytes;
    switch (outcome->what) {
      case kAll:
      case kSome:
        break;
      case kAlreadyThere:
        all = false;
        done += kPageBytes;
        break;
      case kBusy:
        return Closed::kNotYet;
      case kNoSuchRange:
      case kProcessGone:
        return Closed::kForbidden;
    }
    range = range.subspan(done);
  }
  return all ? Closed::kPoisoned : Closed::kForbidden;
}

void ServedClone::wake(std::span<std::byte> range) {
  if (Result<> woken = uffd_.wake(range); !woken) note(woken.error(), Need::kYes);
}

void ServedClone::note(Error why, Need need) {
  if (failure_ && (need == Need::kNo || failure_need_ == Need::kYes)) return;
  failure_ = std::move(why);
  failure_need_ = need;
}

std::optional<Error> ServedClone::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

void ServedClone::forget() {
  const std::lock_guard lock(mutex_);
  forget_locked();
}

void ServedClone::forget_locked() {
  if (!forgotten_) loop_.ignore(uffd_.fd());
  forgotten_ = true;
}

void ServedClone::close() {
  const std::lock_guard lock(mutex_);
  forget_locked();
  uffd_ = Userfaultfd(Fd());
}

}  // namespace volt::uffd
