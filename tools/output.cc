#include "tools/output.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "snapshot/restore.h"
#include "tools/host_facts.h"
#include "tools/linux_guest.h"
#include "vmm/interrupt.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

struct CodeWords {
  Code code;
  int exit;
  const char* name;
};

constexpr CodeWords kCodes[] = {
    {Code::kSystem, 1, "system"},
    {Code::kInvalid, 2, "usage"},
    {Code::kNotFound, 3, "not_found"},
    {Code::kConflict, 4, "conflict"},
    {Code::kUnsupported, 5, "incompatible"},
    {Code::kHostUnable, 6, "host_unable"},
    {Code::kCorrupt, 7, "integrity"},
    {Code::kGuestCrashed, 9, "guest_crashed"},
    {Code::kPageLost, 10, "page_lost"},
    {Code::kBusy, 75, "busy"},
    {Code::kDeadline, 124, "deadline"},
    {Code::kInterrupted, 130, "interrupted"},
};

const CodeWords& words_of(Code code) {
  for (const CodeWords& words : kCodes) {
    if (words.code == code) return words;
  }
  return kCodes[0];
}

// Of the snapshot that a command was given, if it was.
std::string reference_of(std::string_view command, const Arguments& arguments) {
  if (command == "run" || command == "snapshot create") return arguments.get("--from");
  if (command == "bench restore") return arguments.get("--ref");
  const bool first =
      command == "call" || (command.starts_with("snapshot ") && command != "snapshot load");
  return first && !arguments.positional().empty() ? arguments.positional()[0] : "";
}

// Empty where none was named; a bench starts its own.
std::string pager_socket(std::string_view command, const Arguments& arguments) {
  return command == "bench restore" ? "" : arguments.get("--pager");
}

// Where something is to be found that is not there: a snapshot, or whoever listens at a socket.
std::string advice_where(const Error& error, std::string_view command, const Arguments& arguments,
                         const std::string& reference) {
  if (command == "bench linux")
    return arguments.has("--kernel") ? "volt kernel ls" : "volt kernel fetch";
  if (command == "snapshot load") return "volt snapshot load --help";
  // A pager that is there and has no such snapshot makes no system call fail.
  const bool nobody_listens = error.sys_errno != 0;
  const std::string socket = pager_socket(command, arguments);
  if (nobody_listens && !socket.empty()) return "volt pager --socket " + socket;
  if (nobody_listens && arguments.has("--uffd-handler")) {
    return "volt pager --snapshot " + reference + " --socket " + arguments.get("--uffd-handler");
  }
  if (command != "pager") return "volt snapshot ls";
  return arguments.has("--stats") ? "volt pager --socket " + arguments.get("--socket")
                                  : "volt pager --help";
}

std::string kernel_advice(Code code, std::string_view command) {
  const bool fetch = command == "kernel fetch";
  switch (code) {
    case Code::kNotFound:
      if (command == "kernel rm") return "volt kernel ls";
      return fetch ? "sudo apt-get update" : "volt kernel import --help";
    case Code::kConflict:
      return "another --name, or volt kernel rm first";
    case Code::kCorrupt:
    case Code::kUnsupported:
      return fetch ? "volt kernel import --help" : "volt kernel fetch";
    case Code::kHostUnable:
    case Code::kSystem:
      return fetch ? "volt kernel import VMLINUZ --modules DIR --name NAME" : "";
    default:
      return "";
  }
}

constexpr char kHookFailed[] = "agent: hook ";  // as the agent begins it

// Whether it is about a file that is named for the guest or for the report.
bool is_about_a_file(const Error& error, const Arguments& arguments) {
  for (const char* option : {"--initrd", "--report"}) {
    const std::string name = " " + arguments.get(option);
    const std::string text = " " + error.context;
    for (const char* end : {":", " is a directory"}) {
      if (arguments.has(option) && text.find(name + end) != std::string::npos) return true;
    }
  }
  return false;
}

// Of one kind of guest where the other is wanted, and of a boot.
std::string guest_advice(const Error& error, std::string_view command, const Arguments& arguments,
                         const std::string& reference) {
  if (error.context.ends_with(snapshot::kIsLinux)) {
    return "volt run --from " + reference + " -- COMMAND";
  }
  if (error.context.ends_with(snapshot::kIsMicro)) {
    return "volt call " + reference + " health";
  }
  if (error.context.find(kKernelsEmulated) != std::string::npos) return "volt doctor";
  if (error.context.find(kHookFailed) != std::string::npos) {
    return "mend that hook in the guest, and create its snapshot again";
  }
  if (error.context.find(kServicesFailed) != std::string::npos) {
    return "mend them in the guest's root, then the same command again";
  }
  const bool is_early = error.context.find(kEndedEarly) != std::string::npos;
  if (error.context.starts_with("--after ") &&
      (is_early || error.context.find(kEndedWithCode) != std::string::npos)) {
    return "the same command with another --after";
  }
  const bool boots = command == "run" || command == "snapshot create";
  if (boots && is_about_a_file(error, arguments)) return "volt " + std::string(command) + " --help";
  if (boots && is_early) return "a command that leaves the guest running";
  if (!boots || !arguments.has("--kernel")) return "";
  if (error.code == Code::kGuestCrashed && command == "run" && arguments.positional().empty()) {
    return "a command behind --; or --console, to see all that the guest's own init says";
  }
  if (error.code == Code::kGuestCrashed) return "volt run with --console, to see all it says";
  const bool of_kernel = error.code == Code::kNotFound || error.code == Code::kCorrupt;
  return of_kernel ? "volt kernel ls" : "";
}

// The next command to type, with the real name in it; never the one that just failed.
/// Where there was no room for what the command writes.
std::string room_advice(const Error& error, std::string_view command) {
  if (error.sys_errno == EFBIG) return "a larger limit on the size of files (ulimit -f)";
  if (error.sys_errno != ENOSPC && error.sys_errno != EDQUOT) return "";
  if (command.starts_with("bench ")) return "TMPDIR on a disk with more room";
  for (const std::string_view stores :
       {"create", "load", "pack", "unpack", "compact", "fetch", "import"}) {
    if (command.ends_with(stores)) {
      return "volt snapshot prune, or VOLT_DATA_DIR on a disk with more room";
    }
  }
  return "more room on that disk";
}

std::string advice(const Error& error, std::string_view command, const Arguments& arguments) {
  if (const std::string text = room_advice(error, command); !text.empty()) return text;
  if (command.starts_with("kernel ")) {
    const std::string text = kernel_advice(error.code, command);
    if (!text.empty()) return text;
  }
  const std::string given = reference_of(command, arguments);
  const std::string reference = given.empty() ? "REF" : given;
  const std::string for_guest = guest_advice(error, command, arguments, reference);
  if (!for_guest.empty()) return for_guest;
  const std::string socket = pager_socket(command, arguments);
  switch (error.code) {
    case Code::kInvalid:
      return "volt " + std::string(command) + (command.empty() ? "--help" : " --help");
    case Code::kNotFound:
      return advice_where(error, command, arguments, reference);
    case Code::kConflict:
      if (error.context.starts_with("vsock: somebody listens")) return "another --vsock";
      if (error.context.find(arguments.get("--vsock", "?") + " exists") != std::string::npos) {
        return "another --vsock, or remove that file";
      }
      if (command == "pager") return "volt pager --stats, with the same --socket";
      if (command == "snapshot create" || command == "snapshot load") {
        return "the same command with --replace, or another --name";
      }
      if (command == "snapshot save") return "the same command with --replace, or another file";
      if (command == "snapshot pack")
        return "volt snapshot restore " + reference + " --hotset record";
      // What a loader cannot do with a snapshot follows from how it is stored.
      if (command == "call" || command == "snapshot restore" || arguments.has("--loader")) {
        return "volt snapshot unpack " + reference;
      }
      return "volt snapshot ls";
    case Code::kUnsupported:
      return command == "snapshot compat" ? "volt version" : "volt snapshot compat " + reference;
    case Code::kHostUnable:
      return command == "doctor" ? "volt doctor --json" : "volt doctor";
    case Code::kPageLost:
      if (!socket.empty()) return "volt pager --stats --socket " + socket;
      return "volt snapshot verify --deep " + reference;
    case Code::kCorrupt:
      if (command == "snapshot load") return "save it again, or fetch the archive again";
      if (command == "snapshot verify") return "volt snapshot rm " + reference;
      return "volt snapshot verify --deep " + reference;
    case Code::kDeadline:
      return "the same command with a larger --timeout";
    case Code::kBusy:
    case Code::kInterrupted:
      return "the same command again";
    case Code::kGuestCrashed:  // by itself, or because its memory is not what was captured
      return given.empty() ? "volt doctor" : "volt snapshot verify --deep " + given;
    case Code::kSystem:
      return "volt doctor";
  }
  return "";
}

}  // namespace

int exit_code(Code code) {
  return code == Code::kInterrupted ? 128 + vmm::stop_signal() : words_of(code).exit;
}

nlohmann::ordered_json error_json(const Error& error, std::string_view command,
                                  const Arguments& arguments) {
  const std::string next = advice(error, command, arguments);
  nlohmann::ordered_json document = {{"schema", "volt.error/v1"},
                                     {"code", words_of(error.code).name},
                                     {"exit", exit_code(error.code)},
                                     {"message", error.context},
                                     {"fix", nlohmann::ordered_json::array()}};
  if (!next.empty()) document["fix"].push_back(next);
  return document;
}

void print_error(const Error& error, std::string_view command, const Arguments& arguments,
                 bool json) {
  const std::string next = advice(error, command, arguments);
  if (!json) {
    std::fprintf(stderr, "error: %s\n", error.context.c_str());
    if (!next.empty()) std::fprintf(stderr, "  try: %s\n", next.c_str());
    return;
  }
  const std::string line =
      error_json(error, command, arguments)
          .dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
  std::fprintf(stderr, "%s\n", line.c_str());
}

Result<> write_report(const std::string& path, const nlohmann::ordered_json& document) {
  const std::string text =
      document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  const Fd file = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644));
  return write_all(file, std::as_bytes(std::span(text)), 0, path);
}

Result<> print_text(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    return sys_error("write stdout");
  }
  return {};
}

Result<> print_json(const nlohmann::ordered_json& document) {
  return print_text(document.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) +
                    "\n");
}

bool is_utf8(std::string_view text) {
  try {
    nlohmann::json(text).dump();  // the strict encoder's own check
    return true;
  } catch (const nlohmann::json::type_error&) {
    return false;
  }
}

void progress(std::string_view line) {
  static const bool wanted =
      ::isatty(STDERR_FILENO) == 1 || std::getenv("VOLT_PROGRESS") != nullptr;
  if (wanted) std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

}  // namespace volt::tools
