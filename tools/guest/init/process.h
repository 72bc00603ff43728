// Starts a program: its streams, terminal, user, directory, control group. Every process the agent
// starts is the leader of a session of its own, so that it can be signalled with all it started.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>

#include "tools/guest/init/frames.h"
#include "vmm/os/fd.h"

namespace volt::init {

// Opened by main(): /dev/null. No other descriptor of the agent is below 4, so those that a new
// process is to have as 0 to 3 are never in each other's way.
inline constexpr int kNullFd = 3;

// Fds of the new process; each is copied. `tty` makes `in` its controlling terminal.
struct Streams {
  int in, out, error;
  bool tty = false;
  int notify = -1;  // becomes its descriptor 3
};

// Why a process did not get as far as its program.
struct StartError {
  enum class Step : std::int32_t { kGroup, kStreams, kUser, kDirectory, kProgram };
  Step step;
  std::int32_t error;
};
const char* step_name(StartError::Step step);
// As shells have it: 127 if there is no such program, else 126.
int exit_code_of(const StartError& error);

struct Child {
  pid_t pid;
  Fd report;  // readable once it is known: at its end, the program runs; else a StartError
};

// The control group new processes enter; -1 for none. Set once, at the start.
void set_command_group(int procs_fd);

// A command of the host's. -1 in `pid`, with errno, if there can be no more processes.
Child start_command(const Exec& exec, const Streams& streams);

// A program of the guest's, as root, with VOLT_EVENT=`event`.
Child start_program(const char* path, const char* event, const Streams& streams);

}  // namespace volt::init
