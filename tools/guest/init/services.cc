#include "tools/guest/init/services.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/guest/init/files.h"
#include "tools/guest/init/log.h"

namespace volt::init {

namespace {

bool has_suffix(const char* name, const char* suffix) {
  const std::size_t length = strlen(name), tail = strlen(suffix);
  return length > tail && strcmp(name + length - tail, suffix) == 0;
}

}  // namespace

void Services::start_all() {
  static Names names;
  for (const char* directory : {"/etc/volt/services.d", "/volt/services.d"}) {
    const int error = names.read(directory);
    if (error != 0 && error != ENOENT) say_error(directory, error);
    for (std::size_t i = 0; i < names.count; ++i) {
      const Path path(directory, names.names[i]);
      if (is_program(path.text)) start(names.names[i], path.text);
    }
  }
}

void Services::start(const char* name, const char* path) {
  if (count_ == kCapacity) {
    say("service %s: there are %zu already", name, kCapacity);
    ++failed_;
    return;
  }
  Service& service = services_[count_++];
  snprintf(service.name, sizeof service.name, "%s", name);
  if (has_suffix(name, ".notify")) service.kind = Kind::kNotify;
  if (has_suffix(name, ".oneshot")) service.kind = Kind::kOneshot;
  if (!start_process(service, path)) return fail(service, reason(errno));
  if (service.kind == Kind::kPlain) service.status = Status::kUp;
}

bool Services::start_process(Service& service, const char* path) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) return false;
  service.output = Fd(ends[0]);
  const Fd output(ends[1]);
  fcntl(service.output.get(), F_SETFL, O_NONBLOCK);
  Fd notify;
  if (service.kind == Kind::kNotify) {
    if (pipe2(ends, O_CLOEXEC) < 0) return false;
    service.notify = Fd(ends[0]);
    notify = Fd(ends[1]);
    fcntl(service.notify.get(), F_SETFL, O_NONBLOCK);
  }
  Child child =
      start_program(path, "start", {kNullFd, output.get(), output.get(), false, notify.get()});
  if (child.pid < 0) return false;
  service.pid = child.pid;
  service.report = std::move(child.report);
  return true;
}

void Services::fail(Service& service, const char* why) {
  say("service %s failed: %s", service.name, why);
  if (service.status == Status::kStarting) ++failed_;
  service.status = Status::kEnded;
}

void Services::watch(PollSet& set) {
  for (Service& service : std::span(services_, count_)) {
    service.output_ticket = set.add(service.output.get(), POLLIN);
    service.notify_ticket = set.add(service.notify.get(), POLLIN);
  }
}

void Services::serve(const PollSet& set) {
  for (Service& service : std::span(services_, count_)) {
    if (set.readable(service.notify_ticket)) read_notice(service);
    if (set.readable(service.output_ticket)) read_output(service);
  }
}

void Services::read_notice(Service& service) {
  char notice[64];
  const ssize_t got = read(service.notify.get(), notice, sizeof notice);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  service.notify = Fd();
  if (service.status != Status::kStarting) return;
  if (got <= 0) return fail(service, "it will not say that it is up");
  service.status = Status::kUp;
}

void Services::print_line(Service& service) {
  char text[sizeof service.name + sizeof service.line + 4];
  const int length = snprintf(text, sizeof text, "%s: %.*s\n", service.name,
                              static_cast<int>(service.line_bytes), service.line);
  service.line_bytes = 0;
  // As with say(): a console that takes nothing is no reason to stop.
  if (length > 0 && write(STDERR_FILENO, text, static_cast<std::size_t>(length)) < 0) return;
}

void Services::read_output(Service& service) {
  char piece[sizeof service.line];
  const ssize_t got = read(service.output.get(), piece, sizeof piece);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) {
    if (service.line_bytes > 0) print_line(service);
    service.output = Fd();
    return;
  }
  for (const char byte : std::span(piece, static_cast<std::size_t>(got))) {
    if (byte != '\n') service.line[service.line_bytes++] = byte;
    if (byte == '\n' || service.line_bytes == sizeof service.line) print_line(service);
  }
}

bool Services::child_ended(pid_t pid, int status) {
  for (Service& service : std::span(services_, count_)) {
    if (service.pid != pid) continue;
    service.pid = -1;
    service.report = Fd();
    // It may have said that it is up with its last breath.
    if (service.notify.valid()) read_notice(service);
    const bool well = WIFEXITED(status) && WEXITSTATUS(status) == 0;
    char how[48];
    snprintf(how, sizeof how, "%s %d", WIFSIGNALED(status) ? "killed by signal" : "ended with",
             WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
    if (!well || service.kind == Kind::kNotify) {
      if (service.status == Status::kStarting) {
        fail(service, how);
      } else if (service.status == Status::kUp) {
        say("service %s: %s", service.name, how);
      }
    }
    service.status = Status::kEnded;
    return true;
  }
  return false;
}

bool Services::all_decided() const {
  for (const Service& service : std::span(services_, count_))
    if (service.status == Status::kStarting) return false;
  return true;
}

}  // namespace volt::init
