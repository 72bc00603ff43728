// Question: what does a whole `volt call` cost, from spawn to exit, beside the floor program doing
// the same? Method: both restore the same 256 MiB echo snapshot and print its answer; they are
// spawned in turn, N times each, and timed from posix_spawn to waitpid by wall clock, since exec,
// page faults and exit are the point. Which goes first alternates. The answers are compared. Not
// measured: making the snapshot.
//   volt-process-bench VOLT VOLT_FLOOR [N]
#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

extern char** environ;

namespace {

constexpr char kAnswer[] = "hello";

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "volt-process-bench: %s\n", what.c_str());
  std::exit(1);
}

double now_us() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
}

// Runs a program with stdout into `out`; its time from spawn to exit in microseconds.
double run(const std::vector<std::string>& words, const std::string& out) {
  std::vector<char*> argv;
  for (const std::string& word : words) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, out.c_str(),
                                   O_WRONLY | O_CREAT | O_TRUNC, 0600);
  const double from = now_us();
  pid_t child;
  if (::posix_spawn(&child, argv[0], &actions, nullptr, argv.data(), environ) != 0) {
    die("cannot start " + words[0]);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  const double took = now_us() - from;
  posix_spawn_file_actions_destroy(&actions);
  if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) die(words[0] + " failed");
  return took;
}

std::string content(const std::string& path) {
  std::string text;
  std::FILE* file = std::fopen(path.c_str(), "r");
  for (int c; file != nullptr && (c = std::fgetc(file)) != EOF;)
    text.push_back(static_cast<char>(c));
  if (file != nullptr) std::fclose(file);
  return text;
}

double quantile(std::vector<double> values, double q) {
  std::sort(values.begin(), values.end());
  return values[static_cast<std::size_t>(q * static_cast<double>(values.size() - 1))];
}

// Where the data ends: the slot that `volt call` gives its guest.
std::string slot_kib_of(const std::string& memory_file) {
  const int fd = ::open(memory_file.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("cannot open " + memory_file);
  off_t end = 0;
  for (off_t at = 0; (at = ::lseek(fd, at, SEEK_DATA)) >= 0;) end = at = ::lseek(fd, at, SEEK_HOLE);
  ::close(fd);
  return std::to_string(end >> 10);
}

std::string memory_file_of(const std::string& data) {
  for (const auto& entry : std::filesystem::directory_iterator(data + "/snapshots")) {
    return entry.path().string() + "/memory";
  }
  die("no snapshot was made");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) die("usage: volt-process-bench VOLT VOLT_FLOOR [N]");
  const std::string volt = argv[1], floor = argv[2];
  const unsigned long count = argc > 3 ? std::strtoul(argv[3], nullptr, 10) : 200;
  std::string data = std::filesystem::temp_directory_path().string() + "/volt-process-XXXXXX";
  if (::mkdtemp(data.data()) == nullptr) die("mkdtemp");
  ::setenv("VOLT_DATA_DIR", data.c_str(), 1);
  const std::string out = data + "/out";
  run({volt, "snapshot", "create", "--name", "p", "--workload", "echo", "--memory", "256M"}, out);
  const std::vector<std::string> ours = {volt, "call", "p", "echo", kAnswer};
  const std::vector<std::string> least = {
      floor, "call", memory_file_of(data), "256", slot_kib_of(memory_file_of(data)), kAnswer};
  std::vector<double> our_us, floor_us;
  for (unsigned long i = 0; i < count; ++i) {
    if (i % 2 == 0) floor_us.push_back(run(least, out));
    if (i % 2 == 0 && content(out) != std::string(kAnswer) + "\n")
      die("the floor's answer is wrong");
    our_us.push_back(run(ours, out));
    if (content(out) != std::string(kAnswer) + "\n") die("volt's answer is wrong");
    if (i % 2 == 1) floor_us.push_back(run(least, out));
  }
  std::filesystem::remove_all(data);
  std::printf("%-16s %10s %10s\n", "process", "p50 us", "p99 us");
  std::printf("%-16s %10.1f %10.1f\n", "volt call", quantile(our_us, 0.5), quantile(our_us, 0.99));
  std::printf("%-16s %10.1f %10.1f\n", "floor", quantile(floor_us, 0.5), quantile(floor_us, 0.99));
  std::printf("ratio of medians: %.3f\n", quantile(our_us, 0.5) / quantile(floor_us, 0.5));
  return 0;
}
