#include "tools/kernel_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "formats/digest.h"
#include "tools/context.h"
#include "vmm/os/file.h"

namespace volt::tools {
namespace {

constexpr char kDraftPrefix[] = ".draft-";
constexpr char kAbout[] = "about.json";
constexpr char kSchema[] = "volt.kernel/v1";
constexpr std::size_t kMostAbout = 1 << 20;
constexpr std::size_t kMostName = 63;

std::string draft_name() {
  std::array<std::byte, 8> random = {};
  [[maybe_unused]] const ssize_t got = ::getrandom(random.data(), random.size(), 0);
  return kDraftPrefix + std::to_string(::getpid()) + "-" + formats::to_hex(random);
}

void remove_tree(const std::string& path) {
  std::error_code ignored;  // what cannot be removed now is tried again by the next sweep
  std::filesystem::remove_all(path, ignored);
}

Result<> write_file(const std::string& path, std::span<const std::byte> bytes) {
  const Fd file = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0444));
  VOLT_TRY(write_all(file, bytes, 0, path));
  return sync(file, path);
}

Result<> sync_directory(const std::string& path) {
  const Fd dir = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY));
  return sync(dir, path);
}

std::uint64_t unix_ns() {
  timespec now = {};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

std::string about_text(const NewKernel& kernel) {
  nlohmann::ordered_json modules = nlohmann::ordered_json::array();
  for (const KernelModule& module : kernel.modules) modules.push_back(module.name);
  const nlohmann::ordered_json about = {{"schema", kSchema},
                                        {"version", kernel.version},
                                        {"source", kernel.source},
                                        {"sha256", formats::to_hex(formats::sha256(kernel.file))},
                                        {"bytes", kernel.file.size()},
                                        {"added_unix_ns", unix_ns()},
                                        {"modules", std::move(modules)}};
  return about.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
}

Result<> write_kernel(const std::string& path, const NewKernel& kernel) {
  VOLT_TRY(write_file(path + "/kernel", kernel.file));
  const std::string modules = path + "/modules";
  if (::mkdir(modules.c_str(), 0777) != 0) return sys_error("mkdir", modules);
  for (std::size_t i = 0; i < kernel.modules.size(); ++i) {
    char number[32];
    std::snprintf(number, sizeof number, "/%03zu-", i);
    VOLT_TRY(
        write_file(modules + number + kernel.modules[i].name + ".ko", kernel.modules[i].bytes));
  }
  VOLT_TRY(sync_directory(modules));
  const std::string about = about_text(kernel);
  VOLT_TRY(write_file(path + "/" + kAbout, std::as_bytes(std::span(about))));
  return sync_directory(path);
}

Result<> read_about(const std::string& directory, Kernel& kernel) {
  const std::string path = directory + "/" + kAbout;
  const Fd file = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  const std::vector<std::byte> bytes = VOLT_TRY(read_whole(file, kMostAbout, path));
  const auto about = nlohmann::json::parse(
      reinterpret_cast<const char*>(bytes.data()),
      reinterpret_cast<const char*>(bytes.data()) + bytes.size(), nullptr, false);
  const auto text = [&about](const char* key) {
    const auto found = about.find(key);
    return found != about.end() && found->is_string() ? found->get<std::string>() : std::string();
  };
  const auto number = [&about](const char* key) {
    const auto found = about.find(key);
    return found != about.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
  };
  if (!about.is_object() || text("schema") != kSchema) {
    return fail(Code::kCorrupt, path + ": not what describes a kernel");
  }
  kernel.version = text("version");
  kernel.source = text("source");
  kernel.sha256 = text("sha256");
  kernel.bytes = number("bytes");
  kernel.added_unix_ns = number("added_unix_ns");
  return {};
}

std::unexpected<Error> no_kernel(const KernelStore& store, const std::string& name) {
  std::string have;
  if (const auto list = store.list()) {
    for (const Kernel& each : *list) {
      if (have.size() < 200) have += (have.empty() ? " (there is: " : ", ") + each.name;
    }
  }
  if (!have.empty()) have += ")";
  return fail(Code::kNotFound, "no kernel '" + name + "'" + have);
}

}  // namespace

Result<> check_kernel_name(const std::string& name) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  const bool good = !name.empty() && name.size() <= kMostName && alphanumeric(name[0]) &&
                    std::ranges::all_of(name, [&](char c) {
                      return alphanumeric(c) || std::string_view("._+~-").contains(c);
                    });
  if (good) return {};
  return fail(Code::kInvalid,
              "kernel name '" + name +
                  "': 1 to 63 letters, digits, '.', '_', '+', '~' or '-', the first "
                  "a letter or digit");
}

KernelStore::Draft::~Draft() {
  if (!path_.empty()) remove_tree(path_);
}

Result<KernelStore> KernelStore::open() {
  const snapshot::Store store = VOLT_TRY(open_store());
  return KernelStore(store.path() + "/kernels");
}

// A sweeper may take a directory for garbage between its making and its locking; then another is
// made.
Result<KernelStore::Draft> KernelStore::begin() const {
  VOLT_TRY(make_directories(path_));
  sweep();
  for (;;) {
    const std::string path = path_ + "/" + draft_name();
    if (::mkdir(path.c_str(), 0755) != 0) return sys_error("mkdir", path);
    Result<Fd> lock = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
    if (!lock && lock.error().code == Code::kNotFound) continue;
    if (!lock) {
      remove_tree(path);
      return std::unexpected(lock.error());
    }
    if (::flock(lock->get(), LOCK_EX | LOCK_NB) != 0) {
      if (errno == EWOULDBLOCK) continue;
      return sys_error("flock", path);
    }
    struct stat info;
    if (::fstat(lock->get(), &info) == 0 && info.st_nlink > 0) return Draft(path, *std::move(lock));
  }
}

Result<> KernelStore::add(const NewKernel& kernel) const {
  VOLT_TRY(check_kernel_name(kernel.name));
  Draft draft = VOLT_TRY(begin());
  VOLT_TRY(write_kernel(draft.path(), kernel));
  const std::string final_path = path_ + "/" + kernel.name;
  if (::rename(draft.path().c_str(), final_path.c_str()) != 0) {
    if (errno != EEXIST && errno != ENOTEMPTY) return sys_error("rename", final_path);
    return fail(Code::kConflict, "a kernel '" + kernel.name + "' exists already");
  }
  draft.path_.clear();
  return sync_directory(path_);
}

Result<Kernel> KernelStore::find(const std::string& name) const {
  VOLT_TRY(check_kernel_name(name));
  const std::string directory = path_ + "/" + name;
  Kernel kernel;
  kernel.name = name;
  kernel.path = directory + "/kernel";
  struct stat info;
  if (::stat(directory.c_str(), &info) != 0 && errno == ENOENT) return no_kernel(*this, name);
  const Result<> read = read_about(directory, kernel);
  if (!read) {
    // Removed meanwhile, or damaged.
    if (::stat(directory.c_str(), &info) != 0 && errno == ENOENT) return no_kernel(*this, name);
    return fail(Code::kCorrupt, "kernel " + name + ": " + read.error().context);
  }
  for (const std::string& each : VOLT_TRY(directory_entries(directory + "/modules"))) {
    kernel.modules.push_back(directory + "/modules/" + each);
  }
  return kernel;
}

Result<std::vector<Kernel>> KernelStore::list() const {
  std::vector<Kernel> kernels;
  for (const std::string& entry : VOLT_TRY(directory_entries(path_))) {
    if (!check_kernel_name(entry)) continue;
    Result<Kernel> found = find(entry);
    if (!found && found.error().code == Code::kNotFound) continue;  // removed meanwhile
    if (found) {
      kernels.push_back(*std::move(found));
    } else {
      Kernel damaged;
      damaged.name = entry;
      damaged.damage = found.error().context;
      kernels.push_back(std::move(damaged));
    }
  }
  return kernels;
}

// It is no kernel any more from the rename on; its files may take longer.
Result<> KernelStore::remove(const std::string& name) const {
  VOLT_TRY(check_kernel_name(name));
  const std::string path = path_ + "/" + name;
  Result<Fd> lock = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (!lock && lock.error().code == Code::kNotFound) return no_kernel(*this, name);
  Draft draft(path_ + "/" + draft_name(), VOLT_TRY(std::move(lock)));
  if (::rename(path.c_str(), draft.path().c_str()) != 0) {
    if (errno == ENOENT) return no_kernel(*this, name);
    return sys_error("rename", path);
  }
  return sync_directory(path_);
}

void KernelStore::sweep() const {
  const auto entries = directory_entries(path_);
  if (!entries) return;
  for (const std::string& entry : *entries) {
    if (!entry.starts_with(kDraftPrefix)) continue;
    const std::string path = path_ + "/" + entry;
    const Result<Fd> dir = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
    if (dir && ::flock(dir->get(), LOCK_EX | LOCK_NB) == 0) remove_tree(path);
  }
}

const Kernel* default_of(std::span<const Kernel> kernels) {
  const auto newest = std::ranges::max_element(kernels, {}, &Kernel::added_unix_ns);
  return newest == kernels.end() || !newest->damage.empty() ? nullptr : &*newest;
}

Result<Kernel> find_kernel(const std::string& word) {
  if (word.contains('/')) {
    if (::access(word.c_str(), R_OK) != 0) {
      if (errno == ENOENT) return fail(Code::kNotFound, "no kernel's file '" + word + "'");
      return sys_error("open", word);
    }
    Kernel kernel;
    kernel.name = kernel.path = word;
    return kernel;
  }
  const KernelStore store = VOLT_TRY(KernelStore::open());
  if (!word.empty() && word != "latest") return store.find(word);
  const std::vector<Kernel> kernels = VOLT_TRY(store.list());
  const Kernel* newest = default_of(kernels);
  if (newest == nullptr) return fail(Code::kNotFound, "no kernel is here yet");
  return *newest;
}

}  // namespace volt::tools
