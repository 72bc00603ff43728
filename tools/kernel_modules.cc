#include "tools/kernel_modules.h"

#include <fcntl.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>
#include <string_view>

#include "vmm/elf_file.h"
#include "vmm/os/file.h"
#include "vmm/pc/unpack.h"

namespace volt::tools {
namespace {

namespace fs = std::filesystem;

// What our devices need, and what a guest's file system on top of a shared one does. A kernel that
// has one of these built in has no file for it.
constexpr const char* kWanted[] = {
    "virtio_mmio", "virtio_rng", "virtio_balloon", "vmw_vsock_virtio_transport",
    "virtio_blk",  "virtio_net", "overlay",        "button",
    "vmgenid",
};
constexpr std::size_t kMostModuleBytes = 64 << 20;
constexpr std::size_t kMostFiles = 100'000;

std::unexpected<Error> file_error(const std::string& path, const std::error_code& error) {
  return std::unexpected(Error{Code::kSystem, error.value(), path + ": " + error.message()});
}

// "virtio-rng.ko.xz" is virtio_rng; nothing for what is no module.
std::string module_name(std::string file) {
  for (const char* packing : {".xz", ".zst"}) {
    if (file.ends_with(packing)) file.resize(file.size() - std::string_view(packing).size());
  }
  if (!file.ends_with(".ko")) return {};
  file.resize(file.size() - 3);
  std::ranges::replace(file, '-', '_');
  return file;
}

Result<std::map<std::string, std::string>> module_files(const std::string& directory) {
  std::map<std::string, std::string> files;
  std::error_code error;
  fs::recursive_directory_iterator each(directory, error);
  if (error == std::errc::no_such_file_or_directory) {
    return fail(Code::kNotFound, "no directory '" + directory + "'");
  }
  for (std::size_t count = 0; !error && each != fs::recursive_directory_iterator(); ++count) {
    if (count > kMostFiles) {
      return fail(Code::kInvalid, "'" + directory + "' is no kernel's tree of modules");
    }
    const std::string name = module_name(each->path().filename().string());
    if (!name.empty()) files.emplace(name, each->path().string());
    each.increment(error);
  }
  if (error) return file_error(directory, error);
  return files;
}

Result<std::vector<std::byte>> read_module(const std::string& path) {
  const Fd file = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  std::vector<std::byte> bytes = VOLT_TRY(read_whole(file, kMostModuleBytes, path));
  if (!vmm::is_elf(bytes)) {
    bytes = VOLT_TRY_IN(path, pc::unpack_unsized(bytes, kMostModuleBytes));
  }
  if (!vmm::is_elf(bytes)) return fail(Code::kCorrupt, path + ": not a module");
  return bytes;
}

// A value of the module's .modinfo: strings like `depends=a,b`, each with a zero byte around it.
std::string module_info(std::span<const std::byte> module, const std::string& key) {
  const std::string_view text(reinterpret_cast<const char*>(module.data()), module.size());
  const std::string start = std::string(1, '\0') + key + "=";
  const std::size_t at = text.find(start);
  if (at == text.npos) return {};
  const std::string_view value = text.substr(at + start.size());
  return std::string(value.substr(0, value.find('\0')));
}

std::vector<std::string> split_names(const std::string& names) {
  std::vector<std::string> parts;
  for (std::size_t at = 0; at < names.size();) {
    const std::size_t end = std::min(names.find(',', at), names.size());
    std::string name = names.substr(at, end - at);
    std::ranges::replace(name, '-', '_');
    if (!name.empty()) parts.push_back(std::move(name));
    at = end + 1;
  }
  return parts;
}

class LoadOrder {
 public:
  LoadOrder(std::map<std::string, std::string> files, std::string version)
      : files_(std::move(files)), version_(std::move(version)) {}

  // `name` behind all that it depends on; what is there already is not added again.
  Result<> add(const std::string& name) {
    const auto file = files_.find(name);
    if (file == files_.end() || !seen_.insert(name).second) return {};
    std::vector<std::byte> bytes = VOLT_TRY(read_module(file->second));
    VOLT_TRY(check_version(name, bytes));
    for (const std::string& needed : split_names(module_info(bytes, "depends"))) {
      VOLT_TRY(add(needed));
    }
    modules_.push_back({name, std::move(bytes)});
    return {};
  }

  std::vector<KernelModule> take() { return std::move(modules_); }

 private:
  Result<> check_version(const std::string& name, std::span<const std::byte> bytes) const {
    const std::string magic = module_info(bytes, "vermagic");
    const std::string made_for = magic.substr(0, magic.find(' '));
    if (version_.empty() || made_for == version_) return {};
    return fail(Code::kInvalid, "module " + name + " is for kernel '" + made_for +
                                    "', and this one is " + version_);
  }

  std::map<std::string, std::string> files_;
  std::string version_;
  std::set<std::string> seen_;
  std::vector<KernelModule> modules_;
};

}  // namespace

Result<std::vector<KernelModule>> guest_modules(const std::string& directory,
                                                const std::string& version) {
  auto files = VOLT_TRY(module_files(directory));
  if (files.empty()) {
    return fail(Code::kNotFound, "no module of " + version + " is in '" + directory + "'");
  }
  LoadOrder order(std::move(files), version);
  for (const char* name : kWanted) VOLT_TRY(order.add(name));
  return order.take();
}

}  // namespace volt::tools
