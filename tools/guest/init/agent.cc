#include "tools/guest/init/agent.h"

#include <errno.h>
#include <signal.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>

#include "tools/guest/init/files.h"
#include "tools/guest/init/identity.h"

namespace volt::init {

using agent_abi::Stage;
using agent_abi::Type;

void Agent::watch() {
  set_.clear();
  children.watch(set_);
  listener.watch(set_);
  listener.watch_call(set_);
  for (std::size_t i = 0; i < kMaxSessions; ++i)
    if (sessions_[i].is_open() && !waits_[i]) sessions_[i].watch(set_);
  if (state_ == State::kRunning) services.watch(set_);
}

Shutdown Agent::run() {
  while (!leaving_) {
    if (!ready_ && services.all_decided()) {
      ready_ = true;
      if (listener.is_open()) listener.call_host(services.failed());
    }
    watch();
    set_.wait(-1);
    serve();
  }
  return how_;
}

void Agent::serve() {
  if (children.woke(set_)) reap();
  listener.serve_call(set_);
  if (state_ == State::kRunning) services.serve(set_);
  for (std::size_t i = 0; i < kMaxSessions; ++i) {
    Session& session = sessions_[i];
    if (!session.is_open() || waits_[i]) continue;
    const Session::Request request = session.serve(set_);
    if (request == Session::Request::kNone) continue;
    perform(session, request);
    session.flush();
  }
  if (listener.has_connection(set_)) take_connections();
}

void Agent::reap() {
  // ctrl-alt-del is SIGINT; the others are what programs send to init to end the system.
  while (const int number = children.next_signal()) {
    leaving_ = true;
    how_ = {.reboot = number == SIGINT || number == SIGTERM,
            .frozen = state_ == State::kFrozen,
            .by_signal = true};
  }
  pid_t pid = 0;
  int status = 0;
  while (children.next(pid, status)) {
    if (services.child_ended(pid, status)) continue;
    for (Session& session : sessions_)
      if (session.child_ended(pid, status)) break;
  }
}

void Agent::take_connections() {
  // One a turn: the next makes the listener readable again.
  Fd connection = listener.accept();
  if (!connection.valid()) return;
  const auto free = std::ranges::find_if(sessions_, [](const Session& s) { return !s.is_open(); });
  if (free == std::end(sessions_)) return Session::turn_away(connection);
  waits_[free - std::begin(sessions_)] = false;
  if (!free->open(std::move(connection))) say_error("session", errno);
}

void Agent::perform(Session& session, Session::Request request) {
  switch (request) {
    case Session::Request::kExec:
      return exec(session);
    case Session::Request::kFreeze:
      return freeze(session);
    case Session::Request::kResume:
      return resume(session);
    case Session::Request::kShutdown:
      return shut_down(session);
    case Session::Request::kNone:
      return;
  }
}

namespace {

void refuse(Session& session, const Checked& wrong) {
  Failure failure;
  failure.set(wrong.error, "%s", wrong.why);
  session.refuse(failure, Stage::kRequest);
}

}  // namespace

void Agent::exec(Session& session) {
  Exec exec;
  if (const Checked checked = decode(session.payload(), exec); !checked)
    return refuse(session, checked);
  if (state_ == State::kFrozen) return refuse(session, {EBUSY, "EXEC: the guest is frozen"});
  session.start_command(exec);
}

bool Agent::stop_guest(const Session& session, std::int64_t deadline_ms, agent_abi::Frozen& frozen,
                       Failure& failure) {
  if (!run_hooks(kBeforeSnapshot, "before-snapshot", Order::kReverse, deadline_ms, failure) ||
      !freezer.freeze(deadline_ms, frozen.groups, failure))
    return false;
  sync();
  if (!session.host_hung_up()) return true;
  // Nobody was told that the guest is frozen, so nobody would thaw it.
  if (Failure another; !freezer.thaw(another)) say("%s", another.text);
  return failure.set(ECANCELED, "the host waits no more");
}

void Agent::freeze(Session& session) {
  agent_abi::Freeze request;
  if (const Checked checked = decode(session.payload(), request); !checked)
    return refuse(session, checked);
  if (state_ == State::kFrozen) return refuse(session, {EALREADY, "FREEZE: it is frozen"});

  Failure failure;
  agent_abi::Frozen frozen = {};
  if (!stop_guest(session, now_ms() + request.timeout_ms, frozen, failure)) {
    session.refuse(failure, Stage::kFreeze);
    Failure another;
    const std::int64_t hooks_ms = now_ms() + request.timeout_ms;
    if (!run_hooks(kAfterRestore, "abandoned", Order::kForward, hooks_ms, another))
      say("after an abandoned snapshot: %s", another.text);
    return;
  }
  state_ = State::kFrozen;
  for (std::size_t i = 0; i < kMaxSessions; ++i)
    waits_[i] = sessions_[i].is_open() && &sessions_[i] != &session;
  session.answer(Type::kFrozen, frozen);
}

void Agent::resume(Session& session) {
  ResumeRequest request;
  if (const Checked checked = decode(session.payload(), request); !checked)
    return refuse(session, checked);
  if (state_ != State::kFrozen) return refuse(session, {EINVAL, "RESUME: it is not frozen"});

  Failure failure;
  agent_abi::Resumed done = {};
  if (!take_identity(request, done, failure) || !freezer.thaw(failure))
    return session.refuse(failure, Stage::kResume);
  state_ = State::kRunning;
  std::ranges::fill(waits_, false);
  const std::int64_t deadline_ms = now_ms() + request.head.timeout_ms;
  if (!run_hooks(kAfterRestore, "after-restore", Order::kForward, deadline_ms, failure))
    return session.refuse(failure, Stage::kHook);
  done.answered_ns = wall_clock_ns();
  session.answer(Type::kResumed, done);
}

void Agent::shut_down(Session& session) {
  agent_abi::Shutdown request;
  if (const Checked checked = decode(session.payload(), request); !checked)
    return refuse(session, checked);
  leaving_ = true;
  how_ = {.reboot = (request.flags & agent_abi::kShutdownReboot) != 0,
          .frozen = state_ == State::kFrozen,
          .grace_ms = request.grace_ms};
  session.close();
}

}  // namespace volt::init
