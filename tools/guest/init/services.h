// Programs that run from the start: the executable files of /etc/volt/services.d, then those of
// /volt/services.d, started all at once. Each writes to the console under its name. When one counts
// as up is in its name:
//
//   name          once it was started
//   name.notify   once it has written to the descriptor in VOLT_READY_FD
//   name.oneshot  once it has ended with 0
//
// None is started again. One that ends before it is up has failed; the agent says READY once none
// is on its way any more, and how many failed.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <optional>

#include "tools/guest/init/poll_set.h"
#include "tools/guest/init/process.h"
#include "vmm/os/fd.h"

namespace volt::init {

class Services {
 public:
  static constexpr std::size_t kCapacity = 64;

  void start_all();
  void watch(PollSet& set);
  void serve(const PollSet& set);
  bool child_ended(pid_t pid, int status);

  bool all_decided() const;  // none is on its way
  std::uint32_t failed() const { return failed_; }

 private:
  enum class Kind { kPlain, kNotify, kOneshot };
  enum class Status { kStarting, kUp, kEnded };

  struct Service {
    char name[128] = {};
    Kind kind = Kind::kPlain;
    Status status = Status::kStarting;
    pid_t pid = -1;
    Fd report, output, notify;
    PollSet::Ticket output_ticket = PollSet::kNone, notify_ticket = PollSet::kNone;
    char line[512] = {};
    std::size_t line_bytes = 0;
  };

  void start(const char* name, const char* path);
  bool start_process(Service& service, const char* path);
  void fail(Service& service, const char* why);
  void read_notice(Service& service);
  static void read_output(Service& service);
  static void print_line(Service& service);

  Service services_[kCapacity];
  std::size_t count_ = 0;
  std::uint32_t failed_ = 0;
};

}  // namespace volt::init
