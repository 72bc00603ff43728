#include "uffd/fault_server.h"

#include <algorithm>
#include <array>
#include <chrono>

namespace volt::uffd {
namespace {

constexpr std::size_t kMessagesAtOnce = 32;
constexpr std::size_t kMaxThreads = 64;
constexpr int kForEver = -1;
constexpr int kRetryMs = 1;
constexpr int kMaxTickMs = 1'000;

std::uint64_t now_ns() {
  return static_cast<std::uint64_t>(std::chrono::steady_clock::now().time_since_epoch() /
                                    std::chrono::nanoseconds(1));
}
std::uint64_t now_ms() {
  return now_ns() / 1'000'000;
}

// How often it is looked whether a deadline has passed, while anybody waits.
int tick_ms(std::uint64_t deadline_ms) {
  return static_cast<int>(std::clamp<std::uint64_t>(deadline_ms / 8, 1, kMaxTickMs));
}

LostPages choose(std::optional<LostPages> asked, std::uint64_t offered) {
  if (asked) return *asked;
  return (offered & abi::kFeaturePoison) != 0 ? LostPages::kPoison : LostPages::kForbid;
}

}  // namespace

FaultServer::FaultServer(SharedImage image, std::unique_ptr<PageSource> source,
                         const FaultOptions& options)
    : image_(std::move(image)),
      source_(std::move(source)),
      options_(options),
      lost_pages_(choose(options.lost_pages, image_.offered())),
      states_(image_.units()),
      echoes_of_(options.threads) {}

Result<std::unique_ptr<FaultServer>> FaultServer::start(SharedImage image,
                                                        std::unique_ptr<PageSource> source,
                                                        const FaultOptions& options) {
  if (options.threads == 0 || options.threads > kMaxThreads) {
    return fail(Code::kInvalid, "1 to 64 fault threads");
  }
  if (options.lost_pages == LostPages::kPoison && (image.offered() & abi::kFeaturePoison) == 0) {
    return fail(Code::kHostUnable, "userfaultfd: this kernel cannot poison pages (Linux 6.6)");
  }
  std::unique_ptr<FaultServer> server(
      new FaultServer(std::move(image), std::move(source), options));
  for (std::size_t i = 0; i < options.threads; ++i) {
    FaultServer* const raw = server.get();
    server->loops_.push_back(VOLT_TRY(ReadyLoop::start(
        {.on_ready = [raw](std::uint64_t clone,
                           ReadyLoop::Ready ready) { raw->on_ready(clone, ready); },
         .before_sleep = [raw, i] { return raw->before_sleep(i); }})));
  }
  return server;
}

FaultServer::~FaultServer() {
  loops_.clear();
  source_.reset();  // while all that its last answers need is still there
}

std::optional<Error> FaultServer::failure() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

FaultCounts FaultServer::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

Result<> FaultServer::prefetch(std::span<const UnitRange> units) {
  for (const UnitRange& range : units) {
    if (range.first > image_.units() || range.count > image_.units() - range.first) {
      return fail(Code::kInvalid, "prefetch of units that the image does not have");
    }
  }
  std::vector<UnitRange> absent;
  {
    const std::lock_guard lock(mutex_);
    for (const UnitRange& range : units) {
      for (std::uint64_t unit = range.first; unit < range.first + range.count; ++unit) {
        if (states_[unit] != UnitState::kAbsent) continue;
        states_[unit] = UnitState::kPrefetching;
        ++counts_.prefetched;
        const bool next = !absent.empty() && absent.back().first + absent.back().count == unit;
        if (next) ++absent.back().count;
        if (!next) absent.push_back({unit, 1});
      }
    }
  }
  if (!absent.empty()) source_->request(absent, Priority::kPrefetch, *this);
  return {};
}

void FaultServer::on_ready(std::uint64_t id, ReadyLoop::Ready ready) {
  const Clone clone = find(id);
  if (clone == nullptr) return;
  std::array<uffd_msg, kMessagesAtOnce> messages;
  const Result<std::size_t> count = ready == ReadyLoop::Ready::kToRead
                                        ? clone->read(messages)
                                        : fail(Code::kSystem, "a userfaultfd that cannot be read");
  if (!count) {  // nothing will ever come from it, and it must not keep its thread awake
    clone->forget();
    const std::lock_guard lock(mutex_);
    if (!failure_) failure_ = count.error();
    return;
  }
  const std::uint64_t read_ns = options_.times == nullptr ? 0 : now_ns();
  for (const uffd_msg& message : std::span(messages).first(*count)) {
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    on_fault(clone, message.arg.pagefault.address, read_ns);
  }
}

void FaultServer::on_fault(const Clone& clone, std::uint64_t address, std::uint64_t read_ns) {
  const auto place = clone->place_of(address);
  if (!place) {
    // Only views are registered, so this cannot be; if it is, the thread must not sleep for ever.
    return clone->lose_stray(address);
  }
  const Waiter waiter{clone, *place, read_ns};
  const bool removed = clone->removed(*place);
  Next next = Next::kAnswer;  // a removed page is zero, whatever its unit is
  std::optional<Error> lost;
  {
    const std::lock_guard lock(mutex_);
    ++counts_.faults;
    if (!removed) next = next_for(place->unit);
    if (next != Next::kAnswer) {
      wait_for(waiter);
    } else if (const auto found = lost_.find(place->unit); found != lost_.end() && !removed) {
      lost = found->second;
    }
  }
  if (next == Next::kAnswer) answer(waiter, lost);
  if (next != Next::kAsk) return;
  const UnitRange wanted[1] = {{.first = place->unit, .count = 1}};
  source_->request(wanted, Priority::kDemand, *this);
}

FaultServer::Next FaultServer::next_for(std::uint64_t unit) {
  UnitState& state = states_[unit];
  switch (state) {
    case UnitState::kPrefetching:
      ++counts_.overtakes;
      ++counts_.prefetch_hits;
      [[fallthrough]];
    case UnitState::kAbsent:
      state = UnitState::kWanted;
      return Next::kAsk;
    case UnitState::kWanted:
    case UnitState::kFilling:
      return Next::kWait;
    case UnitState::kPrefetched:
      ++counts_.prefetch_hits;
      state = UnitState::kPresent;
      [[fallthrough]];
    case UnitState::kPresent:
      ++counts_.woken_only;
      return Next::kAnswer;
    case UnitState::kFailed:
      return Next::kAnswer;
  }
  return Next::kAnswer;
}

void FaultServer::wait_for(Waiter waiter) {
  Wait& wait = waiting_[waiter.place.unit];
  if (wait.waiters.empty()) wait.since_ms = options_.deadline_ms == 0 ? 0 : now_ms();
  wait.waiters.push_back(std::move(waiter));
  waits_ = waiting_.size();
}

std::vector<FaultServer::Waiter> FaultServer::take_waiters(std::uint64_t unit) {
  auto wait = waiting_.extract(unit);
  waits_ = waiting_.size();
  return wait.empty() ? std::vector<Waiter>() : std::move(wait.mapped().waiters);
}

ServedClone::Answer FaultServer::try_answer(const Waiter& waiter,
                                            const std::optional<Error>& lost) const {
  const ServedClone::Answer given =
      lost ? waiter.clone->lose(waiter.place, *lost, ServedClone::Need::kYes)
           : waiter.clone->show(waiter.place, image_.unit(waiter.place.unit));
  if (options_.times != nullptr && given == ServedClone::Answer::kDone) {
    options_.times->record(now_ns() - waiter.read_ns);
  }
  return given;
}

void FaultServer::answer(const Waiter& waiter, const std::optional<Error>& lost) {
  if (try_answer(waiter, lost) == ServedClone::Answer::kDone) return;
  {
    const std::lock_guard lock(mutex_);
    deferred_.push_back({waiter, lost});
  }
  loops_.front()->poke();
}

void FaultServer::filled(std::uint64_t unit, std::span<const std::byte> bytes) {
  if (unit >= image_.units()) return;  // nobody asked for that
  bool ahead = false;
  {
    const std::lock_guard lock(mutex_);
    UnitState& state = states_[unit];
    ahead = state == UnitState::kPrefetching;
    if (!ahead && state != UnitState::kWanted) return;  // given up, or answered before
    state = UnitState::kFilling;
  }
  if (Result<> put = image_.fill(unit, bytes); !put) {
    return lose(unit, std::move(put).error(), Trace::kInImage);
  }
  std::vector<Waiter> waiters;
  {
    const std::lock_guard lock(mutex_);
    ++counts_.units_filled;
    waiters = take_waiters(unit);
    states_[unit] = ahead && waiters.empty() ? UnitState::kPrefetched : UnitState::kPresent;
    if (ahead && !waiters.empty()) ++counts_.prefetch_hits;
  }
  for (const Waiter& waiter : waiters) answer(waiter, std::nullopt);
  if (ahead && options_.on_ahead != nullptr) options_.on_ahead(unit);
}

void FaultServer::failed(std::uint64_t unit, Error why) {
  if (unit >= image_.units()) return;
  {
    const std::lock_guard lock(mutex_);
    UnitState& state = states_[unit];
    if (state == UnitState::kPrefetching) {  // nobody needs it: whoever does will ask again
      state = UnitState::kAbsent;
      return;
    }
    if (state != UnitState::kWanted) return;
    state = UnitState::kFilling;  // ours to fail
  }
  lose(unit, within("image unit " + std::to_string(unit), std::move(why)), Trace::kNone);
}

// The unit is kFilling, by this thread.
void FaultServer::lose(std::uint64_t unit, Error why, Trace trace) {
  std::vector<Waiter> waiters;
  std::vector<Clone> all;
  {
    const std::lock_guard lock(mutex_);
    states_[unit] = UnitState::kFailed;
    ++counts_.units_failed;
    lost_.emplace(unit, why);
    if (!failure_) failure_ = why;
    waiters = take_waiters(unit);
    if (trace == Trace::kInImage) {
      tainted_.push_back(unit);
      for (const auto& [id, clone] : clones_) all.push_back(clone);
    }
  }
  // Those who wait come last: when they go on, nobody can read what is left of the unit.
  for (const Clone& clone : all) {
    if (std::ranges::find(waiters, clone, &Waiter::clone) != waiters.end()) continue;
    const auto place = clone->place_of_unit(unit);
    if (place) clone->lose(*place, why, ServedClone::Need::kNo);
  }
  for (const Waiter& waiter : waiters) answer(waiter, why);
}

void FaultServer::echo(std::function<void()> answer) {
  const std::shared_ptr<Echo> echo(new Echo{std::move(answer), now_ms(), loops_.size()});
  ++echoes_;
  {
    const std::lock_guard lock(mutex_);
    for (auto& of_thread : echoes_of_) of_thread.push_back(echo);
  }
  for (const auto& loop : loops_) loop->poke();
}

std::uint64_t FaultServer::echo_waits_ms() const {
  if (echoes_ == 0) return 0;
  const std::lock_guard lock(mutex_);
  const std::uint64_t now = now_ms();
  std::uint64_t longest = 0;
  for (const auto& of_thread : echoes_of_) {
    if (!of_thread.empty()) longest = std::max(longest, now - of_thread.front()->since_ms);
  }
  return longest;
}

void FaultServer::pass_echoes(std::size_t thread) {
  std::vector<std::shared_ptr<Echo>> passed;
  {
    const std::lock_guard lock(mutex_);
    passed.swap(echoes_of_[thread]);
  }
  for (const auto& echo : passed) {
    if (--echo->threads_left > 0) continue;
    --echoes_;
    echo->answer();
  }
}

int FaultServer::before_sleep(std::size_t thread) {
  if (echoes_ > 0) pass_echoes(thread);
  if (options_.deadline_ms != 0 && waits_ > 0) expire();
  if (retry_deferred()) return kRetryMs;
  return options_.deadline_ms != 0 && waits_ > 0 ? tick_ms(options_.deadline_ms) : kForEver;
}

// Whether any clone is still busy.
bool FaultServer::retry_deferred() {
  std::vector<Deferred> tried;
  {
    const std::lock_guard lock(mutex_);
    tried.swap(deferred_);
  }
  std::erase_if(tried, [this](const Deferred& each) {
    return try_answer(each.waiter, each.lost) == ServedClone::Answer::kDone;
  });
  if (tried.empty()) return false;
  const std::lock_guard lock(mutex_);
  std::ranges::move(tried, std::back_inserter(deferred_));
  return true;
}

void FaultServer::expire() {
  std::vector<std::uint64_t> late;
  {
    const std::lock_guard lock(mutex_);
    const std::uint64_t now = now_ms();  // under the lock, as `since_ms`: never before it
    for (const auto& [unit, wait] : waiting_) {
      if (states_[unit] != UnitState::kWanted) continue;
      if (wait.waiters.empty() || now - wait.since_ms < options_.deadline_ms) continue;
      states_[unit] = UnitState::kFilling;  // ours to fail
      late.push_back(unit);
    }
  }
  for (const std::uint64_t unit : late) {
    lose(unit,
         {Code::kPageLost, 0,
          "image unit " + std::to_string(unit) + ": its source did not answer within " +
              std::to_string(options_.deadline_ms) + " ms"},
         Trace::kNone);
  }
}

}  // namespace volt::uffd
