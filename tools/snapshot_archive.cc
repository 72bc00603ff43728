// volt snapshot save, load: one snapshot as one file, or through a pipe.
#include "snapshot/archive.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/context.h"
#include "tools/output.h"
#include "tools/size.h"
#include "tools/storage_options.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

constexpr Option kSaveOptions[] = {
    {"--replace", "", "write over a file that is there already"}, kLevelOption, kThreadsOption};
constexpr Option kLoadOptions[] = {
    {"--name", "NAME[:TAG]", "what to call it (tag: latest)"},
    {"--replace", "", "take the name over if a snapshot has it already"},
    {"--sha256", "HEX", "refuse an archive with another sum, as `save` printed it"},
    kStoreOption,
    kLevelOption,
    kThreadsOption,
};

nlohmann::ordered_json archived_json(const char* schema, const snapshot::Reference& reference,
                                     const snapshot::Archived& archived) {
  return {{"schema", schema},
          {"snapshot", reference.text()},
          {"digest", digest_text(archived.digest)},
          {"archive_sha256", formats::to_hex(archived.archive)},
          {"units", archived.units},
          {"bytes", archived.bytes}};
}

// A file that appears under its name when it is whole, and leaves nothing if it never is.
class OutputFile {
 public:
  static Result<OutputFile> create(const std::string& path, bool replace) {
    if (!replace && ::access(path.c_str(), F_OK) == 0) {
      return fail(Code::kConflict, "'" + path + "' exists already");
    }
    OutputFile file(path);
    // Guest memory is for its owner.
    file.fd_ = VOLT_TRY(
        open_at(AT_FDCWD, file.temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600));
    return file;
  }
  OutputFile(OutputFile&& other) noexcept
      : path_(std::move(other.path_)),
        temporary_(std::exchange(other.temporary_, {})),
        fd_(std::move(other.fd_)) {}
  OutputFile& operator=(OutputFile&&) = delete;
  ~OutputFile() {
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
  }

  const Fd& fd() const { return fd_; }
  Result<> publish() {
    VOLT_TRY(sync(fd_, path_));
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return sys_error("rename", path_);
    temporary_.clear();
    return {};
  }

 private:
  explicit OutputFile(const std::string& path)
      : path_(path), temporary_(path + ".part-" + std::to_string(::getpid())) {}

  std::string path_;
  std::string temporary_;
  Fd fd_;
};

Result<int> save(const Arguments& arguments) {
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.positional()[0]));
  const std::string& path = arguments.positional()[1];
  const snapshot::PackOptions options = VOLT_TRY(pack_options(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  if (path == "-") {
    if (arguments.json()) return fail(Code::kInvalid, "--json and an archive on stdout");
    if (::isatty(STDOUT_FILENO) != 0) {
      return fail(Code::kInvalid, "an archive is not for a terminal; name a file, or use a pipe");
    }
    const Fd out{::dup(STDOUT_FILENO)};
    if (!out.valid()) return sys_error("dup", "stdout");
    VOLT_TRY(snapshot::save(store, reference, out, options));
    return 0;
  }
  OutputFile file = VOLT_TRY(OutputFile::create(path, arguments.has("--replace")));
  progress("saving " + reference.text() + " ...");
  const snapshot::Archived archived =
      VOLT_TRY(snapshot::save(store, reference, file.fd(), options));
  VOLT_TRY(file.publish());
  VOLT_TRY(arguments.json()
               ? print_json(archived_json("volt.snapshot.save/v1", reference, archived))
               : print_text("saved " + reference.text() + ": " + human_size(archived.bytes) +
                            "\n  sha256 " + formats::to_hex(archived.archive) + "\n"));
  return 0;
}

Result<snapshot::LoadOptions> load_options(const Arguments& arguments) {
  snapshot::LoadOptions options;
  options.storage = VOLT_TRY(storage_of(arguments));
  options.pack = VOLT_TRY(pack_options(arguments));
  if (arguments.has("--replace")) options.if_taken = snapshot::Store::IfTaken::kReplace;
  if (arguments.has("--sha256")) {
    options.archive = VOLT_TRY(formats::sha256_from_hex(arguments.get("--sha256")));
  }
  return options;
}

Result<int> load(const Arguments& arguments) {
  if (!arguments.has("--name")) return fail(Code::kInvalid, "--name is missing");
  const auto reference = VOLT_TRY(snapshot::Reference::parse(arguments.get("--name")));
  if (reference.digest || reference.name.empty()) {
    return fail(Code::kInvalid, "--name: a name is chosen, a digest follows from the content");
  }
  const snapshot::LoadOptions options = VOLT_TRY(load_options(arguments));
  const snapshot::Store store = VOLT_TRY(open_store());
  if (options.if_taken == snapshot::Store::IfTaken::kRefuse && store.exists(reference)) {
    return fail(Code::kConflict, "a snapshot '" + reference.text() + "' exists already");
  }
  const std::string& path = arguments.positional()[0];
  Fd file;
  if (path == "-") {
    file = Fd{::dup(STDIN_FILENO)};
    if (!file.valid()) return sys_error("dup", "stdin");
  } else {
    file = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  }
  progress("loading " + reference.text() + " ...");
  const snapshot::Archived archived =
      VOLT_TRY_IN(path == "-" ? "stdin" : path, snapshot::load(store, reference, file, options));
  VOLT_TRY(arguments.json()
               ? print_json(archived_json("volt.snapshot.load/v1", reference, archived))
               : print_text("loaded " + reference.text() + "\n  digest " +
                            digest_text(archived.digest) + "\n  sha256 " +
                            formats::to_hex(archived.archive) + "\n"));
  return 0;
}

}  // namespace

const Command kSnapshotSave = {
    .path = "snapshot save",
    .operands = "REF FILE",
    .summary = "write a snapshot as one portable file, - for stdout",
    .details =
        "With - it can go through a pipe, to `volt snapshot load -` on another host. The same\n"
        "content at the same level gives the same file. Everything is checked on\n"
        "the way; the SHA-256 that is printed names the archive.\n",
    .example = "volt snapshot save demo demo.vsnap --level 3",
    .options = kSaveOptions,
    .least = 2,
    .most = 2,
    .run = save};

const Command kSnapshotLoad = {
    .path = "snapshot load",
    .operands = "FILE",
    .summary = "take a snapshot from such a file, - for stdin",
    .details = "Everything is checked before the snapshot exists.\n",
    .example = "volt snapshot load demo.vsnap --name demo --store packed",
    .options = kLoadOptions,
    .least = 1,
    .most = 1,
    .run = load};

}  // namespace volt::tools
