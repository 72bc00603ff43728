// What failed, told once: a code for programs, a sentence for people, and errno when a call said
// no. Input (files, guest values, kernel replies) becomes an Error.
#pragma once

#include <expected>
#include <string>
#include <string_view>
#include <utility>

namespace volt {

enum class Code {
  kCorrupt,       // bytes contradict their format or checksum; retrying cannot help
  kUnsupported,   // well-formed, but this build or this host cannot honour it
  kInvalid,       // the caller asked for something that makes no sense
  kNotFound,      // a named thing is absent
  kConflict,      // a named thing exists already, or is in the wrong state
  kHostUnable,    // this machine or this user cannot run virtual machines
  kGuestCrashed,  // the guest stopped by its own fault, or failed at what it had to do
  kPageLost,      // a page of guest memory could not be had
  kDeadline,      // the time given ran out
  kInterrupted,   // the user asked us to stop
  kBusy,          // try again later
  kSystem,        // a system call failed; see sys_errno
};

// `context` grows outward as an error climbs: "restore web: index: entry 812 out of order".
struct Error {
  Code code;
  int sys_errno = 0;
  std::string context;
};

template <typename T = void>
using Result = std::expected<T, Error>;

inline std::unexpected<Error> fail(Code code, std::string context) {
  return std::unexpected(Error{code, 0, std::move(context)});
}

// Reads errno, so it must be the first thing after the failing call.
std::unexpected<Error> sys_error(std::string_view call, std::string_view object = {});

// The same error with `outer: ` in front.
Error within(std::string_view outer, Error inner);

// Yields the value, or returns the error from the enclosing function. It is a whole statement or a
// whole initialiser, never part of a larger expression.
#define VOLT_TRY(expr)                                                                \
  __extension__({                                                                     \
    auto volt_try_result = (expr);                                                    \
    if (!volt_try_result) return std::unexpected(std::move(volt_try_result).error()); \
    *std::move(volt_try_result);                                                      \
  })

// The same, and says in which part it happened.
#define VOLT_TRY_IN(outer, expr)                                                         \
  __extension__({                                                                        \
    auto volt_try_result = (expr);                                                       \
    if (!volt_try_result)                                                                \
      return std::unexpected(::volt::within(outer, std::move(volt_try_result).error())); \
    *std::move(volt_try_result);                                                         \
  })

}  // namespace volt
