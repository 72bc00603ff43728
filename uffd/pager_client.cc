#include "uffd/pager_client.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "uffd/firecracker.h"

namespace volt::uffd {
namespace {

using pager::Inbox;
using pager::Mode;
using pager::now_ms;

constexpr std::uint64_t kAnswerMs = 30'000;  // of a pager that lives: it may open a large snapshot
constexpr std::uint64_t kForgetMs = 2'000;
constexpr std::uint64_t kLookMs = 20;
constexpr std::size_t kMessagesAtOnce = 32;

// Waits until one of both is ready; a bit for each that is. -1: not watched.
unsigned ready(int stop, int other, std::uint64_t timeout_ms) {
  std::array<pollfd, 2> fds = {{{.fd = stop, .events = POLLIN, .revents = 0},
                                {.fd = other, .events = POLLIN, .revents = 0}}};
  const int timeout = timeout_ms == UINT64_MAX ? -1 : static_cast<int>(timeout_ms);
  if (::poll(fds.data(), fds.size(), timeout) <= 0) return 0;
  return (fds[0].revents != 0 ? 1U : 0U) | (fds[1].revents != 0 ? 2U : 0U);
}

}  // namespace

Result<std::unique_ptr<PagerClient>> PagerClient::connect(Wish wish) {
  std::unique_ptr<PagerClient> client(new PagerClient(std::move(wish), false));
  const std::string where = "pager at " + client->wish_.path;
  VOLT_TRY_IN(where, client->greet(kAnswerMs));
  return client;
}

Result<std::unique_ptr<PagerClient>> PagerClient::connect_handler(std::string path) {
  std::unique_ptr<PagerClient> client(
      new PagerClient({.path = std::move(path), .image = {}, .mode = Mode::kCopied}, true));
  client->socket_ = VOLT_TRY_IN("handler", pager::connect_to(client->wish_.path));
  client->pid_ = VOLT_TRY(pager::peer_of(client->socket_.get())).pid;
  return client;
}

PagerClient::~PagerClient() {
  forget();
}

std::string PagerClient::name() const {
  return std::string(handler_ ? "the handler at " : "the pager at ") + wish_.path + " (process " +
         std::to_string(pid_) + ")";
}

Result<> PagerClient::greet(std::uint64_t timeout_ms) {
  Fd socket = VOLT_TRY(pager::connect_to(wish_.path));
  const int pid = VOLT_TRY(pager::peer_of(socket.get())).pid;
  VOLT_TRY(pager::send(socket.get(), pager::Hello{wish_.mode, wish_.image}));
  Inbox inbox;
  Inbox::Received answer = VOLT_TRY(pager::await(socket.get(), inbox, timeout_ms));
  if (const auto* refused = std::get_if<pager::Refused>(&answer.message)) {
    return fail(refused->code, refused->why);
  }
  const auto* const welcome = std::get_if<pager::Welcome>(&answer.message);
  const std::size_t fds = wish_.mode == Mode::kCopied ? 1 : 2;
  if (welcome == nullptr || answer.fds.size() != fds || welcome->unit_bytes == 0) {
    return fail(Code::kCorrupt, "its answer is no welcome");
  }
  const std::lock_guard lock(mutex_);
  welcome_ = *welcome;
  documents_ = std::move(answer.fds[0]);
  if (fds == 2) image_ = std::move(answer.fds[1]);
  pid_ = pid;
  socket_ = std::move(socket);
  inbox_ = std::move(inbox);
  return {};
}

void PagerClient::close_files() {
  documents_ = Fd();
  image_ = Fd();
}

// Our own descriptor stays open: closed over a live mapping it would plant zero pages.
Result<> PagerClient::hand_over(std::uint64_t timeout_ms) {
  std::vector<pager::WireView> views;
  for (const View& view : views_) {
    views.push_back(
        {reinterpret_cast<std::uintptr_t>(view.host.data()), view.host.size(), view.image_offset});
  }
  const int fds[] = {uffd_.fd()};
  if (handler_) {
    const std::string text = firecracker::encode(views);
    if (text.size() >= firecracker::kMaxSentBytes) {
      return fail(Code::kUnsupported, "more regions of memory than a handler reads about");
    }
    return pager::send_bytes(socket_.get(), std::as_bytes(std::span(text)), fds);
  }
  VOLT_TRY(pager::send(socket_.get(), pager::Attach{std::move(views)}, fds));
  const Inbox::Received answer = VOLT_TRY(pager::await(socket_.get(), inbox_, timeout_ms));
  if (const auto* refused = std::get_if<pager::Refused>(&answer.message)) {
    return fail(refused->code, refused->why);
  }
  if (std::holds_alternative<pager::Attached>(answer.message)) return {};
  return fail(Code::kCorrupt, "its answer to a hand-over is none");
}

Result<> PagerClient::attach(Userfaultfd uffd, std::vector<View> views,
                             std::optional<LostPages> lost_pages) {
  const bool may_poison = (uffd.offered() & abi::kFeaturePoison) != 0;
  lost_pages_ = lost_pages.value_or(may_poison ? LostPages::kPoison : LostPages::kForbid);
  stop_ = Fd{::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
  if (!stop_.valid()) return sys_error("eventfd");
  uffd_ = std::move(uffd);
  views_ = std::move(views);
  VOLT_TRY_IN(name(), hand_over(kAnswerMs));
  serving_ = true;
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { watch(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return {};
}

void PagerClient::forget() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    // Closing says it as well, to a pager that cannot be told; a handler knows no other word.
    if (!handler_) static_cast<void>(pager::send(socket_.get(), pager::Forget{}));
  }
  const std::uint64_t one = 1;
  [[maybe_unused]] const ssize_t put = ::write(stop_.get(), &one, sizeof one);
  thread_.join();
  serving_ = false;
}

std::optional<Error> PagerClient::failure() {
  const std::lock_guard lock(mutex_);
  if (serving_ && !handler_) static_cast<void>(hear());
  return failure_;
}

std::uint64_t PagerClient::takeovers() const {
  const std::lock_guard lock(mutex_);
  return takeovers_;
}

void PagerClient::watch() {
  State state = State::kServed;
  while (state != State::kGone) state = step(state);
}

PagerClient::State PagerClient::step(State state) {
  switch (state) {
    case State::kServed:
      return serve();
    case State::kAlone:
      return look_for_another();
    case State::kRefusing:
      return refuse();
    case State::kGone:
      break;
  }
  return State::kGone;
}

// One wait for what the pager says.
PagerClient::State PagerClient::serve() {
  // A handler knows no word that asks whether it lives.
  const std::uint64_t quiet_ms = handler_ ? UINT64_MAX : wish_.silent_ms / 2;
  const unsigned what = ready(stop_.get(), socket_.get(), quiet_ms);
  if ((what & 1) != 0) {
    const std::uint64_t end = now_ms() + kForgetMs;
    for (std::uint64_t now = now_ms(); !handler_ && now < end; now = now_ms()) {
      {
        const std::lock_guard lock(mutex_);
        if (!hear() || forgotten_) break;
      }
      static_cast<void>(ready(-1, socket_.get(), end - now));
    }
    return State::kGone;
  }
  const std::lock_guard lock(mutex_);
  if (what == 0) return ask();
  serving_ = hear();
  if (!serving_) gone_ = "is gone";
  return serving_ ? State::kServed : State::kAlone;
}

// It has said nothing for half the time. What it said to failure() counts, though we did not see
// it: that took asked_ back.
PagerClient::State PagerClient::ask() {
  if (!asked_) {
    asked_ = true;
    // A socket that takes no more is one that nobody reads: the next time will tell.
    static_cast<void>(pager::send(socket_.get(), pager::Ping{}));
    return State::kServed;
  }
  serving_ = false;
  gone_ = "has said nothing for " + std::to_string(wish_.silent_ms) + " ms";
  return State::kAlone;
}

PagerClient::State PagerClient::look_for_another() {
  const std::uint64_t end = now_ms() + kTakeOverMs;
  // What it was asked for and did not answer is asked again by whoever is woken. Its image is not
  // what the next one maps, so that one copies.
  wish_.mode = Mode::kCopied;
  if (!welcome_.image.empty()) wish_.image = welcome_.image;
  const pager::Welcome before = welcome_;
  while (!handler_ && now_ms() < end) {
    const std::uint64_t left = end - now_ms();
    const bool greeted = greet(left).has_value();
    const bool same = welcome_.image_bytes == before.image_bytes &&
                      welcome_.unit_bytes == before.unit_bytes && welcome_.image == before.image;
    close_files();
    if (greeted && same && hand_over(left).has_value()) {
      const std::lock_guard lock(mutex_);
      ++takeovers_;
      serving_ = true;
      asked_ = false;
      return State::kServed;
    }
    if (ready(stop_.get(), -1, kLookMs) != 0) return State::kGone;
  }
  const std::lock_guard lock(mutex_);
  socket_ = Fd();
  wake_all();
  return State::kRefusing;
}

// The pager's part of a fault, by the one rule that is left.
PagerClient::State PagerClient::refuse() {
  if ((ready(stop_.get(), uffd_.fd(), UINT64_MAX) & 1) != 0) return State::kGone;
  std::array<uffd_msg, kMessagesAtOnce> messages;
  const std::lock_guard lock(mutex_);
  const Result<std::size_t> count = uffd_.read_messages(messages);
  if (!count) return State::kGone;
  for (const uffd_msg& message : std::span(messages).first(*count)) {
    if (message.event == UFFD_EVENT_PAGEFAULT) close_page(message.arg.pagefault.address);
  }
  return State::kRefusing;
}

bool PagerClient::hear() {
  for (;;) {
    const Result<Inbox::Got> got = inbox_.read(socket_.get());
    if (!got) return false;
    if (*got == Inbox::Got::kSomething) asked_ = false;
    if (handler_) {  // whatever it says
      inbox_ = {};
    } else {
      for (;;) {
        auto received = inbox_.take();
        if (!received) return false;
        if (!*received) break;
        take((*received)->message);
      }
    }
    if (*got != Inbox::Got::kSomething) return *got == Inbox::Got::kNothing;
  }
}

void PagerClient::take(const pager::Message& message) {
  if (const auto* lost = std::get_if<pager::Lost>(&message)) note(lost->why);
  if (const auto* close = std::get_if<pager::Close>(&message)) close_unit(close->unit);
  if (std::holds_alternative<pager::Forgotten>(message)) forgotten_ = true;
}

void PagerClient::note(std::string why) {
  if (!failure_) failure_ = Error{Code::kPageLost, 0, std::move(why)};
}

void PagerClient::close_unit(std::uint64_t unit) {
  for (const View& view : views_) {
    const std::uint64_t first = view.image_offset / welcome_.unit_bytes;
    if (unit < first || unit - first >= view.host.size() / welcome_.unit_bytes) continue;
    const auto range = view.host.subspan((unit - first) * welcome_.unit_bytes, welcome_.unit_bytes);
    if (::mprotect(range.data(), range.size(), PROT_NONE) != 0) {
      note(sys_error("mprotect of a lost unit").error().context);
    }
    if (Result<> woken = uffd_.wake(range); !woken) note(woken.error().context);
  }
}

void PagerClient::close_page(std::uint64_t address) {
  auto* const page = reinterpret_cast<std::byte*>(address & ~(kPageBytes - 1));
  for (const View& view : views_) {
    if (page < view.host.data() || page >= view.host.data() + view.host.size()) continue;
    const std::uint64_t at =
        view.image_offset + static_cast<std::uint64_t>(page - view.host.data());
    note(name() + " " + gone_ + ", and nobody else can bring the page at offset " +
         std::to_string(at) + " of " + (handler_ ? "memory" : welcome_.image));
  }
  const std::span<std::byte> range(page, kPageBytes);
  bool closed = false;
  if (lost_pages_ == LostPages::kPoison) {
    const auto poisoned = uffd_.poison(range, Userfaultfd::Wake::kNo);
    closed = poisoned && poisoned->what == Userfaultfd::Did::kAll;
  }
  if (!closed && ::mprotect(page, kPageBytes, PROT_NONE) != 0) {
    note(sys_error("mprotect of a lost page").error().context);
  }
  static_cast<void>(uffd_.wake(range));
}

void PagerClient::wake_all() {
  for (const View& view : views_) static_cast<void>(uffd_.wake(view.host));
}

}  // namespace volt::uffd
