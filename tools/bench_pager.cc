#include "tools/bench_pager.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <vector>

#include "snapshot/pager_images.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

constexpr char kDataDir[] = "VOLT_DATA_DIR=";

// Only what may be called between a fork and an exec. It goes with its parent, but not by the
// parent's Ctrl-C: clones that still need it would report a lost page.
[[noreturn]] void become_pager(pid_t parent, int output, char* const* words, char* const* env) {
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  ::setpgid(0, 0);
  if (::getppid() == parent && ::dup2(output, STDOUT_FILENO) >= 0 &&
      ::dup2(output, STDERR_FILENO) >= 0) {
    ::execve("/proc/self/exe", words, env);
  }
  ::_exit(127);
}

std::vector<char*> pointers(std::vector<std::string>& texts) {
  std::vector<char*> all;
  for (std::string& text : texts) all.push_back(text.data());
  all.push_back(nullptr);
  return all;
}

}  // namespace

Result<BenchPager> BenchPager::start(const std::string& store) {
  const char* base = std::getenv("TMPDIR");
  std::string folder = std::string(base == nullptr ? "/tmp" : base) + "/volt-bench-pager-XXXXXX";
  if (::mkdtemp(folder.data()) == nullptr) return sys_error("mkdtemp", folder);
  BenchPager pager(folder);
  std::vector<std::string> words = {"volt", "pager", "--socket", pager.socket(), "--times"};
  std::vector<std::string> env = {kDataDir + store};
  for (char** each = environ; *each != nullptr; ++each) {
    if (!std::string_view(*each).starts_with(kDataDir)) env.emplace_back(*each);
  }
  const std::vector<char*> word_list = pointers(words);
  const std::vector<char*> env_list = pointers(env);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return sys_error("pipe2");
  pager.output_ = Fd(ends[0]);
  Fd child_end(ends[1]);
  const pid_t parent = ::getpid();
  pager.pid_ = ::fork();
  if (pager.pid_ < 0) return sys_error("fork");
  if (pager.pid_ == 0) become_pager(parent, ends[1], word_list.data(), env_list.data());
  child_end = Fd();  // so that its end is seen
  VOLT_TRY(pager.await_ready());
  return pager;
}

// Its first line says that it listens, or why it does not.
Result<> BenchPager::await_ready() const {
  std::string line;
  for (;;) {
    char next = 0;
    const ssize_t got = ::read(output_.get(), &next, 1);
    if (got < 0 && errno == EINTR) {
      VOLT_TRY(vmm::check_stop());
      continue;
    }
    if (got <= 0 || next == '\n') break;
    line += next;
  }
  if (line.starts_with("ready: ")) return {};
  return fail(Code::kSystem,
              "the bench's own pager did not start: " + (line.empty() ? "it said nothing" : line));
}

Result<nlohmann::ordered_json> BenchPager::stats() const {
  const std::string text = VOLT_TRY(snapshot::pager_stats(socket()));
  auto stats = nlohmann::ordered_json::parse(text, nullptr, false);
  if (!stats.is_object() || !stats.contains("images")) {
    return fail(Code::kCorrupt, "the bench's own pager: its counters are no JSON");
  }
  return stats;
}

BenchPager::~BenchPager() {
  if (folder_.empty()) return;
  if (pid_ > 0) {
    ::kill(pid_, SIGTERM);
    while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
  }
  for (const char* left : {"/pager", "/pager.lock", ""}) ::remove((folder_ + left).c_str());
}

}  // namespace volt::tools
