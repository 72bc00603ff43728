// The volt command: finds the command in the table, parses its options, runs it, and turns a
// failure into an exit code.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <cstring>

#include "tools/commands.h"
#include "tools/output.h"
#include "vmm/interrupt.h"

namespace volt::tools {
namespace {

constexpr const Command* kCommands[] = {
    &kRun,
    &kCall,
    &kSnapshotCreate,
    &kSnapshotRestore,
    &kSnapshotLs,
    &kSnapshotInspect,
    &kSnapshotVerify,
    &kSnapshotCompat,
    &kSnapshotRm,
    &kSnapshotTree,
    &kSnapshotPack,
    &kSnapshotUnpack,
    &kSnapshotCompact,
    &kSnapshotSave,
    &kSnapshotLoad,
    &kSnapshotPrune,
    &kKernelFetch,
    &kKernelImport,
    &kKernelLs,
    &kKernelRm,
    &kPager,
    &kBenchRestore,
    &kBenchLinux,
    &kDoctor,
    &kVersion,
};

std::string overview(std::string_view group) {
  std::string text =
      "usage: volt COMMAND [OPTIONS] [OPERANDS]\n\n"
      "Boots a virtual machine once, freezes it at its ready point, and restores it "
      "from then on.\n\ncommands:\n";
  for (const Command* command : kCommands) {
    std::string left = command->path;
    if (!left.starts_with(group)) continue;
    left.resize(20, ' ');
    text.append("  ").append(left).append(command->summary).append("\n");
  }
  text +=
      "\nexample:\n  volt snapshot create --name demo && volt call demo get 5\n\n"
      "`volt COMMAND --help` says more about each.\n";
  return text;
}

// How many words of the command line name the command.
std::size_t words_in(const char* path) {
  return 1 + static_cast<std::size_t>(std::count(path, path + std::strlen(path), ' '));
}

const Command* find(std::span<char* const> words) {
  for (const Command* command : kCommands) {
    const std::size_t count = words_in(command->path);
    std::string given;
    for (std::size_t i = 0; i < count && i < words.size(); ++i) {
      given.append(i == 0 ? "" : " ").append(words[i]);
    }
    if (given == command->path) return command;
  }
  return nullptr;
}

bool asks_for(std::span<char* const> words, std::string_view option) {
  for (const char* word : words) {
    if (std::string_view(word) == "--") return false;
    if (word == option) return true;
  }
  return false;
}

Result<int> run(const Command& command, std::span<char* const> words, Arguments& arguments) {
  arguments = VOLT_TRY(parse(command.options, words));
  if (arguments.has("--help")) {
    VOLT_TRY(print_text(help_of(command)));
    return 0;
  }
  const int given = static_cast<int>(arguments.positional().size());
  if (given < command.least || (command.most >= 0 && given > command.most)) {
    return fail(Code::kInvalid, std::string("volt ") + command.path + " takes " +
                                    (*command.operands == '\0' ? "no operands" : command.operands) +
                                    ", not " + std::to_string(given) + " operands");
  }
  return command.run(arguments);
}

// Words that name no command: a wish for help, or a mistake.
Result<int> answer_unknown(std::span<char* const> words) {
  const std::string group = words.empty() || words[0][0] == '-' ? "" : words[0];
  const bool known_group = std::any_of(
      std::begin(kCommands), std::end(kCommands),
      [&](const Command* each) { return std::string_view(each->path).starts_with(group + " "); });
  if (words.empty() || asks_for(words, "--help") || asks_for(words, "-h")) {
    VOLT_TRY(print_text(overview(known_group ? group : "")));
    return 0;
  }
  std::string given(words[0]);
  if (known_group && words.size() > 1) given.append(" ").append(words[1]);
  return fail(Code::kInvalid,
              "unknown command '" + given + "'" +
                  (known_group ? ": a command is missing after it, or unknown" : ""));
}

int main_of(std::span<char* const> words) {
  const Command* command = find(words);
  std::size_t skip = command == nullptr ? 0 : words_in(command->path);
  if (command == nullptr && !words.empty() && std::string_view(words[0]) == "--version") {
    command = &kVersion;
    skip = 1;
  }
  vmm::stop_on_signals();
  Arguments arguments;
  const Result<int> result =
      command == nullptr ? answer_unknown(words) : run(*command, words.subspan(skip), arguments);
  if (result) return *result;
  print_error(result.error(), command == nullptr ? "" : command->path, arguments,
              asks_for(words, "--json"));
  return exit_code(result.error().code);
}

// A program started with its standard descriptors closed would get their numbers for the files it
// opens, and print into one of them. Reading stdin then finds nothing, and writing stdout fails.
void fill_standard_descriptors() {
  for (int fd = 0; fd <= STDERR_FILENO; ++fd) {
    if (::fcntl(fd, F_GETFD) >= 0) continue;
    if (::open("/dev/null", fd == STDERR_FILENO ? O_WRONLY : O_RDONLY) != fd) ::_exit(1);
  }
}

}  // namespace
}  // namespace volt::tools

int main(int argc, char** argv) {
  volt::tools::fill_standard_descriptors();
  // A file beyond `ulimit -f` is an error that is told, and cleaned up after, and not the end of
  // us.
  std::signal(SIGXFSZ, SIG_IGN);
  const int code = volt::tools::main_of({argv + 1, static_cast<std::size_t>(argc - 1)});
  // Everything is on disk or printed; taking the heap apart would only cost time.
  std::fflush(nullptr);
  ::_exit(code);
}
