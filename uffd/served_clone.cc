#include "uffd/served_clone.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace volt::uffd {
namespace {

using Kind = CloneOptions::Kind;
using Wake = Userfaultfd::Wake;

std::byte* page_at(std::uint64_t address) {
  return reinterpret_cast<std::byte*>(address & ~(kPageBytes - 1));
}

std::uint64_t address_of(const View& view) {
  return reinterpret_cast<std::uintptr_t>(view.host.data());
}

}  // namespace

ServedClone::ServedClone(Userfaultfd uffd, std::vector<View> views, CloneOptions options,
                         const Setup& setup)
    : views_(std::move(views)),
      options_(std::move(options)),
      setup_(setup),
      uffd_(std::move(uffd)),
      removed_(setup.image_bytes / kPageBytes),
      recorded_(setup.image_bytes / kPageBytes) {}

std::optional<ServedClone::Place> ServedClone::place_of(std::uint64_t address) const {
  for (const View& view : views_) {
    const std::uint64_t base = address_of(view);
    if (address < base || address - base >= view.host.size()) continue;
    const std::uint64_t unit_bytes = setup_.unit_bytes;
    const std::uint64_t at = (address - base) / unit_bytes * unit_bytes;
    return Place{(view.image_offset + at) / unit_bytes, view.host.subspan(at, unit_bytes),
                 page_at(address), (view.image_offset + (address - base)) / kPageBytes};
  }
  return std::nullopt;
}

std::optional<ServedClone::Place> ServedClone::place_of_unit(std::uint64_t unit) const {
  const std::uint64_t offset = unit * setup_.unit_bytes;
  for (const View& view : views_) {
    if (offset < view.image_offset || offset - view.image_offset >= view.host.size()) continue;
    const auto range = view.host.subspan(offset - view.image_offset, setup_.unit_bytes);
    return Place{unit, range, range.data(), offset / kPageBytes};
  }
  return std::nullopt;
}

Result<> ServedClone::watch(std::uint64_t key) {
  const std::lock_guard lock(mutex_);
  VOLT_TRY(setup_.loop.watch(uffd_.fd(), key));
  for (const View& view : views_) VOLT_TRY(uffd_.wake(view.host));
  return {};
}

// A page fault and the removal of its page may be in one batch, in either order. Removed first, it
// is zero, which is right in both: what the removal would have wiped is not seen any more.
Result<std::size_t> ServedClone::read(std::span<uffd_msg> messages) {
  const std::lock_guard lock(mutex_);
  if (forgotten_) return std::size_t{0};
  const std::size_t count = VOLT_TRY(uffd_.read_messages(messages));
  for (const uffd_msg& message : messages.first(count)) {
    switch (message.event) {
      case UFFD_EVENT_REMOVE:
      case UFFD_EVENT_UNMAP:
        remove(message.arg.remove.start, message.arg.remove.end);
        break;
      case UFFD_EVENT_FORK:  // a userfaultfd of its own, for memory that nobody gave us to serve
        static_cast<void>(Fd(static_cast<int>(message.arg.fork.ufd)));
        break;
      case UFFD_EVENT_PAGEFAULT:
        record(message.arg.pagefault.address, message.arg.pagefault.flags);
        break;
      default:
        break;
    }
  }
  return count;
}

void ServedClone::remove(std::uint64_t start, std::uint64_t end) {
  for (const View& view : views_) {
    const std::uint64_t base = address_of(view);
    const std::uint64_t from = std::max(start, base);
    const std::uint64_t to = std::min(end, base + view.host.size());
    for (std::uint64_t at = from; at < to; at += kPageBytes) {
      removed_.mark((view.image_offset + (at - base)) / kPageBytes);
    }
  }
}

bool ServedClone::removed(const Place& place) const {
  const std::lock_guard lock(mutex_);
  return removed_.has(place.page_in_image);
}

void ServedClone::record(std::uint64_t address, std::uint64_t flags) {
  if (options_.kind != Kind::kRecording) return;
  const auto place = place_of(address);
  if (!place || recorded_.has(place->page_in_image)) return;
  if (recording_.touches.size() == options_.recorded_pages_max) {
    recording_.complete = false;
    return;
  }
  recorded_.mark(place->page_in_image);
  recording_.touches.push_back(
      {place->page_in_image * kPageBytes, (flags & UFFD_PAGEFAULT_FLAG_WRITE) != 0});
}

Recording ServedClone::take_recording() {
  const std::lock_guard lock(mutex_);
  return std::exchange(recording_, {});
}

// Does `step` to all of `range`, going over pages that are there already.
template <typename Step>
ServedClone::Covered ServedClone::cover(std::span<std::byte> range, Step step) {
  using enum Userfaultfd::Did;
  const std::size_t whole = range.size();
  bool by_page = false;
  while (!range.empty()) {
    const auto part = by_page ? range.first(kPageBytes) : range;
    const Result<Userfaultfd::Outcome> outcome = step(part);
    if (!outcome) {
      note(outcome.error(), Need::kYes);
      return Covered::kRefused;
    }
    std::size_t done = outcome->bytes;
    switch (outcome->what) {
      case kAll:
        if (done == whole) return Covered::kAtOnce;
        break;
      case kSome:
        break;
      case kAlreadyThere:
        done += kPageBytes;
        break;
      case kNoSuchRange:  // it is cut up, or gone in parts: single pages tell
        if (part.size() == kPageBytes) done += kPageBytes;
        by_page = true;
        break;
      case kBusy:
        return Covered::kBusy;
      case kProcessGone:
        note({Code::kSystem, ESRCH, "the process of the clone is gone"}, Need::kYes);
        forget_locked();
        return Covered::kWholly;
    }
    range = range.subspan(done);
  }
  return Covered::kWholly;
}

// The same to those pages of a unit that the clone has not thrown away.
template <typename Step>
ServedClone::Covered ServedClone::cover_kept(const Place& place, Step step) {
  if (removed_.empty() || place.unit == kNoUnit) return cover(place.range, step);
  const std::uint64_t first = place.unit * setup_.unit_bytes / kPageBytes;
  for (std::uint64_t page = 0; page < place.range.size() / kPageBytes; ++page) {
    if (removed_.has(first + page)) continue;
    const Covered covered = cover(place.range.subspan(page * kPageBytes, kPageBytes), step);
    if (covered == Covered::kBusy || covered == Covered::kRefused) return covered;
  }
  return Covered::kWholly;
}

ServedClone::Covered ServedClone::copy(const Place& place, std::span<const std::byte> bytes) {
  if (removed_.has(place.page_in_image)) {
    return cover({place.page, kPageBytes},
                 [&](std::span<std::byte> part) { return uffd_.zero(part, Wake::kYes); });
  }
  return cover_kept(place, [&](std::span<std::byte> part) {
    const auto at = static_cast<std::size_t>(part.data() - place.range.data());
    return uffd_.copy(part.data(), bytes.subspan(at, part.size()), Wake::kYes);
  });
}

ServedClone::Covered ServedClone::show_locked(const Place& place,
                                              std::span<const std::byte> bytes) {
  const auto resume = [&](std::span<std::byte> part) { return uffd_.resume(part, Wake::kYes); };
  switch (options_.kind) {
    case Kind::kShared:
      return Covered::kWholly;
    case Kind::kIsolated:
      return cover(place.range, resume);
    case Kind::kRecording:
      if (!recorded_.has(place.page_in_image)) return cover(place.range, resume);
      return cover({place.page, kPageBytes}, resume);
    case Kind::kForeign:
      return copy(place, bytes);
  }
  return Covered::kWholly;
}

ServedClone::Answer ServedClone::show(const Place& place, std::span<const std::byte> bytes) {
  const std::lock_guard lock(mutex_);
  if (forgotten_) return Answer::kDone;
  switch (show_locked(place, bytes)) {
    case Covered::kBusy:
      return Answer::kBusy;
    case Covered::kAtOnce:  // and woken
      return Answer::kDone;
    case Covered::kRefused:  // woken with nothing there, it would come back at once, for ever
      close_range(place);
      break;
    case Covered::kWholly:
      break;
  }
  wake(place.range);
  return Answer::kDone;
}

ServedClone::Answer ServedClone::lose(const Place& place, const Error& why, Need need) {
  if (removed(place)) return show(place, {});
  // Only a clone that maps the image and is not told of its pages can see what nobody showed it.
  if (need == Need::kNo && options_.kind != Kind::kShared) return Answer::kDone;
  if (need == Need::kYes && options_.on_failing != nullptr) options_.on_failing(place.unit, why);
  {
    const std::lock_guard lock(mutex_);
    if (forgotten_) return Answer::kDone;
    note(why, need);
    auto known = std::ranges::find(lost_units_, place.unit, &LostUnit::unit);
    if (known == lost_units_.end()) {
      const Closed how = close_range(place);
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
  {
    const std::lock_guard lock(mutex_);
    if (forgotten_) return;
    note({Code::kSystem, 0, "a fault outside every view of its clone"}, Need::kYes);
    std::byte* const page = page_at(address);
    const Place place = {kNoUnit, {page, kPageBytes}, page, 0};
    if (close_range(place) != Closed::kByOwner) return wake(place.range);
  }
  options_.on_lost(kNoUnit);
}

ServedClone::Closed ServedClone::close_range(const Place& place) {
  if (setup_.lost_pages == LostPages::kPoison) {
    const Closed how = poison(place);
    if (how != Closed::kForbidden) return how;
  }
  if (options_.home == CloneOptions::Home::kAnotherProcess) {
    return options_.on_lost != nullptr ? Closed::kByOwner : Closed::kPoisoned;
  }
  if (::mprotect(place.range.data(), place.range.size(), PROT_NONE) != 0) {
    note(sys_error("mprotect of a lost unit").error(), Need::kYes);
  }
  return Closed::kForbidden;
}

// kForbidden: not every page could be. What is there already cannot be poisoned; in memory that
// shows the image it is not to be trusted either, elsewhere it is the clone's own.
ServedClone::Closed ServedClone::poison(const Place& place) {
  bool there_already = false;
  const Covered covered = cover_kept(place, [&](std::span<std::byte> part) {
    const auto outcome = uffd_.poison(part, Wake::kNo);
    there_already |= outcome && outcome->what == Userfaultfd::Did::kAlreadyThere;
    return outcome;
  });
  if (covered == Covered::kBusy) return Closed::kNotYet;
  const bool untrusted = there_already && options_.kind == Kind::kShared;
  return covered == Covered::kRefused || untrusted ? Closed::kForbidden : Closed::kPoisoned;
}

void ServedClone::wake(std::span<std::byte> range) {
  if (forgotten_) return;
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
  if (!forgotten_) setup_.loop.ignore(uffd_.fd());
  forgotten_ = true;
}

void ServedClone::close() {
  const std::lock_guard lock(mutex_);
  forget_locked();
  uffd_ = Userfaultfd(Fd());
}

}  // namespace volt::uffd
