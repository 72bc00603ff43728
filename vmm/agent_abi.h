// The contract between Volt and volt-init, the agent in a Linux guest: frames on a stream.
// Freestanding: the guest includes this very file. Both sides are x86-64, so structs are the wire.
//
// The agent listens on AF_VSOCK port kPort and takes connections of the host (CID 2) only. One
// connection is one session. Once its services are up it connects to port kPort of the host, says
// READY, and closes; that is the only connection it makes, and if nobody listens there it is lost.
//
// A frame is a Head and `length` bytes of payload. Frames of a session, in this order:
//
//   host                                          guest
//   EXEC, then any of STDIN STDIN_EOF SIGNAL      STARTED, then any of STDOUT STDERR CREDIT, EXITED
//        RESIZE, in any order
//   FREEZE                                        FROZEN
//   RESUME                                        RESUMED
//   SHUTDOWN                                      nothing; the connection ends when it has begun
//
// FAILED instead of an answer ends the session, whatever was asked. The guest closes the connection
// after its last frame; the host closing it earlier kills the session's command and what is left of
// its process group.
//
// Flow. The host has at most kStdinWindow bytes of STDIN under way: CREDIT gives back what the
// command took (or would never take, once its input is closed). So the guest always reads on, and a
// SIGNAL reaches a command that reads nothing. The other way the stream itself is the window: the
// guest reads no more of the command's output while the host reads none of the frames.
//
// EXITED comes after all that was in the command's pipes when it ended. What processes it left
// behind write later is lost; they go on.
//
// A command that could not be started has no STARTED, a line on STDERR, and EXITED with code 127
// (there is no such program) or 126 (it is there and cannot be run, or its directory, user or
// control group cannot be had).
//
// FREEZE runs the hooks of /etc/volt/hooks/before-snapshot.d, last name first, freezes every
// process of the guest but the agent, and writes dirty pages back. After FROZEN the agent answers
// nothing but RESUME and SHUTDOWN, on connections made later; those that were open wait. If a hook
// fails, time runs out, or the host hangs up before it is answered, everything runs on, the hooks
// of after-restore.d are told (VOLT_EVENT is `abandoned`), and the answer is FAILED.
//
// RESUME: the kernel's generator takes the entropy and reseeds, the wall clock is stepped, the
// hostname is set, /run/volt/generation is written, and only then are processes thawed. Until there
// a failure leaves all of them frozen: FAILED, and RESUME may come again. After the thaw the hooks
// of after-restore.d run, first name first; one that fails makes the answer FAILED with kHook, and
// the guest runs on. It is the same after a restore and when the captured machine itself goes on.
// Sessions that a restore cut off lose their commands as soon as the guest runs.
//
// Versions. READY names the agent's. Every first frame of a session begins with the version it is
// written in; an agent refuses any but its own (FAILED, EPROTONOSUPPORT), since one may sit in a
// snapshot that is older than the Volt which restores it. Reserved fields and unknown flags are 0.
#pragma once

#include <cstddef>
#include <cstdint>

namespace volt::agent_abi {

inline constexpr std::uint32_t kVersion = 3;
inline constexpr std::uint32_t kPort = 1024;
inline constexpr std::uint32_t kHostCid = 2;

inline constexpr std::uint32_t kMaxPayload = 64 * 1024;
inline constexpr std::uint32_t kStdinWindow = 128 * 1024;
inline constexpr std::uint32_t kMaxStrings = 4096;  // arguments; and again variables
inline constexpr std::uint32_t kMaxHostname = 64;   // bytes, without NUL
inline constexpr std::uint32_t kMaxFailureText = 1024;
inline constexpr std::uint32_t kMaxSignal = 64;

struct Head {
  std::uint32_t length;  // of the payload; at most kMaxPayload
  std::uint32_t type;
};
static_assert(sizeof(Head) == 8);

enum class Type : std::uint32_t {
  // Host to guest.
  kExec = 1,      // ExecHead, strings
  kStdin = 2,     // bytes, at least one
  kStdinEof = 3,  // nothing; on a tty it becomes the end-of-file character
  kSignal = 4,    // Signal
  kResize = 5,    // Resize
  kFreeze = 6,    // Freeze
  kResume = 7,    // Resume, hostname and its NUL; an empty one leaves the guest's
  kShutdown = 8,  // Shutdown
  // Guest to host.
  kReady = 257,    // Ready
  kStarted = 258,  // Started
  kStdout = 259,   // bytes, at least one; all output of a command on a tty
  kStderr = 260,   // bytes, at least one
  kCredit = 261,   // Credit
  kExited = 262,   // Exited
  kFrozen = 263,   // Frozen
  kResumed = 264,  // Resumed
  kFailed = 265,   // Failed, text without NUL
};

// Behind it, each ended by NUL: the directory (empty: /), the arguments, the variables NAME=VALUE.
// The command's environment is PATH, HOME and (on a tty) TERM of the agent's choice, then these.
struct ExecHead {
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t uid, gid;        // of the command; it has no further groups
  std::uint16_t rows, columns;   // of its tty
  std::uint32_t argument_count;  // 1 to kMaxStrings
  std::uint32_t variable_count;  // 0 to kMaxStrings
};
static_assert(sizeof(ExecHead) == 28);
inline constexpr std::uint32_t kExecTty = 1;  // on a terminal of its own instead of pipes

struct Signal {
  std::uint32_t number;  // 1 to kMaxSignal; to the command's process group, not if it has ended
};

struct Resize {
  std::uint16_t rows, columns;
};

struct Freeze {
  std::uint32_t version;
  std::uint32_t reserved;
  std::uint32_t timeout_ms;  // for hooks and freezing together; then FAILED with ETIMEDOUT
};

struct Resume {
  std::uint32_t version;
  std::uint32_t timeout_ms;     // for hooks
  std::uint8_t generation[16];  // random, another for every VM that ever ran
  std::uint8_t entropy[64];     // for the kernel's generator, never used twice
  std::uint64_t wall_ns;        // CLOCK_REALTIME of the host
  // The guest's time stamp counter at that moment, by which it sees how long the message took: a
  // guest that is just coming alive may read it seconds later. 0 kHz: it took no time.
  std::uint64_t tsc;
  std::uint64_t tsc_khz;
};
static_assert(sizeof(Resume) == 112);

// A message that took longer, or came before it was sent, fails the RESUME: no clock can be set by
// a counter that says so.
inline constexpr std::int64_t kResumeAgeMaxMs = 24 * 3600 * 1000;
inline constexpr std::int64_t kResumeAgeMinMs = -1000;

// How far from the host's a guest's clock may be. One that is behind is set forward, however little
// it is; none is ever set back, so one that is further ahead than this fails the RESUME. The host
// looks at the times of the answer with the same measure: a guest cannot see for itself that its
// counter runs faster than it was told.
inline constexpr std::int64_t kClockToleranceNs = 100'000'000;

struct Shutdown {
  std::uint32_t version;
  std::uint32_t flags;
  std::uint32_t grace_ms;  // between SIGTERM and SIGKILL; the agent waits no longer than 60 s
};
inline constexpr std::uint32_t kShutdownReboot = 1;

struct Ready {
  std::uint32_t version;
  std::uint32_t failed_services;  // ended before they were up
  std::uint64_t mono_ns;          // CLOCK_MONOTONIC of the guest
};
static_assert(sizeof(Ready) == 16);

struct Started {
  std::uint32_t pid;
};

struct Credit {
  std::uint32_t bytes;
};

enum class ExitCause : std::uint32_t { kCode = 1, kSignal = 2 };

struct Exited {
  std::uint32_t cause;  // ExitCause
  std::uint32_t value;  // 0 to 255, or 1 to kMaxSignal
};

struct Frozen {
  std::uint32_t groups;  // control groups that it froze
};

struct Resumed {
  std::int64_t clock_step_ns;  // 0: the clock was not set
  std::uint64_t resumed;       // how often this guest and those it descends from were
  // CLOCK_REALTIME of the guest: right before its processes were thawed, and of this answer.
  std::uint64_t thawed_ns;
  std::uint64_t answered_ns;
};
static_assert(sizeof(Resumed) == 32);

// Which part failed, so that a host knows whether the guest runs.
enum class Stage : std::uint32_t {
  kRequest = 1,  // the frame itself, or the agent's state; nothing was done
  kFreeze = 2,   // FREEZE; everything runs on
  kResume = 3,   // RESUME before the thaw; everything is still frozen
  kHook = 4,     // RESUME after the thaw; everything runs
};

struct Failed {
  std::uint32_t error;  // errno
  std::uint32_t stage;  // Stage
};

// Whether a payload of this length can be one of this type; false for an unknown type.
constexpr bool length_fits(std::uint32_t type, std::uint32_t length) {
  const auto from = [length](std::size_t least, std::size_t most) {
    return length >= least && length <= most;
  };
  const auto exactly = [length](std::size_t size) { return length == size; };
  switch (static_cast<Type>(type)) {
    case Type::kExec:
      return from(sizeof(ExecHead) + 2, kMaxPayload);
    case Type::kStdin:
    case Type::kStdout:
    case Type::kStderr:
      return from(1, kMaxPayload);
    case Type::kStdinEof:
      return exactly(0);
    case Type::kSignal:
      return exactly(sizeof(Signal));
    case Type::kResize:
      return exactly(sizeof(Resize));
    case Type::kFreeze:
      return exactly(sizeof(Freeze));
    case Type::kResume:
      return from(sizeof(Resume) + 1, sizeof(Resume) + kMaxHostname + 1);
    case Type::kShutdown:
      return exactly(sizeof(Shutdown));
    case Type::kReady:
      return exactly(sizeof(Ready));
    case Type::kStarted:
      return exactly(sizeof(Started));
    case Type::kCredit:
      return exactly(sizeof(Credit));
    case Type::kExited:
      return exactly(sizeof(Exited));
    case Type::kFrozen:
      return exactly(sizeof(Frozen));
    case Type::kResumed:
      return exactly(sizeof(Resumed));
    case Type::kFailed:
      return from(sizeof(Failed), sizeof(Failed) + kMaxFailureText);
  }
  return false;
}

}  // namespace volt::agent_abi
