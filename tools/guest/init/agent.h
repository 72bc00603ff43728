// The agent's loop: connections, children, and what it is asked for itself. One thread; nothing in
// it waits but hooks, freezing and shutting down, which have the guest to themselves.
#pragma once

#include <sys/types.h>

#include <cstddef>

#include "tools/guest/init/children.h"
#include "tools/guest/init/freezer.h"
#include "tools/guest/init/hooks.h"
#include "tools/guest/init/listener.h"
#include "tools/guest/init/poll_set.h"
#include "tools/guest/init/services.h"
#include "tools/guest/init/session.h"
#include "tools/guest/init/shutdown.h"

namespace volt::init {

class Agent {
 public:
  static constexpr std::size_t kMaxSessions = 32;

  // Opened by main().
  Listener listener;
  Freezer freezer;
  Services services;
  Children children;

  // Until something asks for the guest's end.
  Shutdown run();

 private:
  enum class State { kRunning, kFrozen };

  void watch();
  void serve();
  void reap();
  void take_connections();
  void perform(Session& session, Session::Request request);
  void exec(Session& session);
  void freeze(Session& session);
  void resume(Session& session);
  void shut_down(Session& session);
  bool stop_guest(const Session& session, std::int64_t deadline_ms, agent_abi::Frozen& frozen,
                  Failure& failure);

  State state_ = State::kRunning;
  bool ready_ = false;
  bool leaving_ = false;
  Shutdown how_ = {};
  Session sessions_[kMaxSessions];
  bool waits_[kMaxSessions] = {};  // its session was open when the guest was frozen
  PollSet set_;
};

}  // namespace volt::init
