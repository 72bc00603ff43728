// volt kernel fetch, import, ls, rm: kernels for Linux guests.
#include <fcntl.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tools/commands.h"
#include "tools/kernel_fetch.h"
#include "tools/kernel_store.h"
#include "tools/output.h"
#include "tools/size.h"
#include "vmm/os/file.h"
#include "vmm/pc/kernel_image.h"

namespace volt::tools {
namespace {

constexpr std::size_t kMostKernelBytes = std::size_t{1} << 30;

constexpr Option kImportOptions[] = {
    {"--name", "NAME", "what to call it"},
    {"--modules", "DIR", "its tree of modules, as lib/modules/VERSION (none)"},
};

nlohmann::ordered_json kernel_json(const Kernel& kernel, bool is_default) {
  if (!kernel.damage.empty()) return {{"name", kernel.name}, {"error", kernel.damage}};
  nlohmann::ordered_json modules = nlohmann::ordered_json::array();
  for (const std::string& path : kernel.modules) {
    modules.push_back(path.substr(path.find_last_of('/') + 1));
  }
  return {{"name", kernel.name},
          {"version", kernel.version},
          {"default", is_default},
          {"source", kernel.source},
          {"sha256", kernel.sha256},
          {"bytes", kernel.bytes},
          {"added_unix_ns", kernel.added_unix_ns},
          {"path", kernel.path},
          {"modules", std::move(modules)}};
}

// "virtio_blk", of .../003-virtio_blk.ko.
std::string shown_module(const std::string& path) {
  const std::size_t start = path.find('-', path.find_last_of('/'));
  const std::size_t end = path.rfind(".ko");
  if (start == path.npos || end == path.npos || end <= start) return path;
  return path.substr(start + 1, end - start - 1);
}

Result<> print_kernel(const Arguments& arguments, const char* schema, const Kernel& kernel,
                      bool added) {
  if (arguments.json()) {
    nlohmann::ordered_json document = {{"schema", schema}, {"added", added}};
    document.update(kernel_json(kernel, added));
    document.erase("default");
    return print_json(document);
  }
  std::string modules;
  for (const std::string& path : kernel.modules) modules += " " + shown_module(path);
  return print_text((added ? "added " : "is here already: ") + kernel.name + ", " +
                    human_size(kernel.bytes) +
                    "\n  modules:" + (modules.empty() ? " none" : modules) + "\n");
}

// A kernel that only the guest can unpack is one all the same.
Result<std::string> version_of(std::span<const std::byte> file) {
  Result<pc::KernelImage> image = pc::KernelImage::parse(file);
  if (!image && image.error().code == Code::kUnsupported) {
    if (auto as_it_is = pc::KernelImage::parse(file, pc::Entry::kBzImage)) {
      return as_it_is->version();
    }
  }
  if (!image) return std::unexpected(std::move(image).error());
  return image->version();
}

Result<Kernel> add_kernel(const KernelStore& store, const std::string& name,
                          const std::string& source, const std::string& path,
                          const std::string& modules) {
  const Fd fd = VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  const std::vector<std::byte> file = VOLT_TRY(read_whole(fd, kMostKernelBytes, path));
  NewKernel kernel = {.name = name, .source = source, .version = {}, .file = file, .modules = {}};
  kernel.version = VOLT_TRY_IN(path, version_of(file));
  if (!modules.empty()) kernel.modules = VOLT_TRY(guest_modules(modules, kernel.version));
  VOLT_TRY(store.add(kernel));
  return store.find(name);
}

Result<int> fetch(const Arguments& arguments) {
  const std::string wanted = arguments.positional().empty() ? "latest" : arguments.positional()[0];
  const KernelStore store = VOLT_TRY(KernelStore::open());
  const std::string version = VOLT_TRY(resolve_kernel_version(wanted));
  Result<Kernel> kernel = store.find(version);
  const bool here = kernel.has_value();
  if (!here) {
    if (kernel.error().code != Code::kNotFound) return std::unexpected(kernel.error());
    progress("fetching linux-image-" + version + " ...");
    const KernelStore::Draft work = VOLT_TRY(store.begin());
    const FetchedKernel fetched = VOLT_TRY(fetch_kernel(version, work.path()));
    kernel = add_kernel(store, version, fetched.source, fetched.file, fetched.modules);
    // Somebody else fetched it meanwhile: then it is here.
    if (!kernel && kernel.error().code == Code::kConflict) kernel = store.find(version);
  }
  const Kernel found = VOLT_TRY(std::move(kernel));
  VOLT_TRY(print_kernel(arguments, "volt.kernel.fetch/v1", found, !here));
  return 0;
}

Result<int> import_kernel(const Arguments& arguments) {
  const std::string name = arguments.get("--name");
  if (!arguments.has("--name")) return fail(Code::kInvalid, "--name is missing");
  VOLT_TRY_IN("--name", check_kernel_name(name));
  if (name == "latest") return fail(Code::kInvalid, "--name: latest is the newest of all");
  const std::string& path = arguments.positional()[0];
  const KernelStore store = VOLT_TRY(KernelStore::open());
  const Kernel kernel = VOLT_TRY(add_kernel(store, name, path, path, arguments.get("--modules")));
  VOLT_TRY(print_kernel(arguments, "volt.kernel.import/v1", kernel, true));
  return 0;
}

std::string column(std::string text, std::size_t width) {
  if (text.size() < width) text.resize(width, ' ');
  return text + "  ";
}

Result<int> list_kernels(const Arguments& arguments) {
  const KernelStore store = VOLT_TRY(KernelStore::open());
  const std::vector<Kernel> kernels = VOLT_TRY(store.list());
  const Kernel* newest = default_of(kernels);
  if (arguments.json()) {
    nlohmann::ordered_json items = nlohmann::ordered_json::array();
    for (const Kernel& each : kernels) items.push_back(kernel_json(each, &each == newest));
    VOLT_TRY(print_json(
        {{"schema", "volt.kernel.ls/v1"}, {"items", std::move(items)}, {"next", nullptr}}));
    return 0;
  }
  if (kernels.empty()) {
    VOLT_TRY(print_text("no kernels; get one:  volt kernel fetch\n"));
    return 0;
  }
  std::size_t width = 20;
  for (const Kernel& each : kernels) width = std::max(width, each.name.size());
  std::string text =
      "  " + column("NAME", width) + column("VERSION", 24) + column("SIZE", 10) + "MODULES\n";
  for (const Kernel& each : kernels) {
    text += (&each == newest ? "* " : "  ") + column(each.name, width);
    text += each.damage.empty() ? column(each.version, 24) + column(human_size(each.bytes), 10) +
                                      std::to_string(each.modules.size()) + "\n"
                                : "damaged: " + each.damage + "\n";
  }
  VOLT_TRY(print_text(text + "* is what --kernel latest means\n"));
  return 0;
}

Result<int> remove_kernels(const Arguments& arguments) {
  const KernelStore store = VOLT_TRY(KernelStore::open());
  nlohmann::ordered_json removed = nlohmann::ordered_json::array();
  std::string text;
  for (const std::string& name : arguments.positional()) {
    VOLT_TRY(store.remove(name));
    removed.push_back(name);
    text += "removed " + name + "\n";
  }
  VOLT_TRY(arguments.json()
               ? print_json({{"schema", "volt.kernel.rm/v1"}, {"removed", std::move(removed)}})
               : print_text(text));
  return 0;
}

}  // namespace

const Command kKernelFetch = {
    .path = "kernel fetch",
    .operands = "[VERSION|latest]",
    .summary = "get Debian's cloud kernel for Linux guests",
    .details =
        "The package manager fetches and checks its package (apt-get download); nothing is\n"
        "installed, and no root is needed. The kernel and the modules that a guest needs are\n"
        "kept in the data directory, under the kernel's version.\n",
    .example = "volt kernel fetch",
    .options = {},
    .least = 0,
    .most = 1,
    .run = fetch};

const Command kKernelImport = {
    .path = "kernel import",
    .operands = "VMLINUZ",
    .summary = "take a kernel from a file, bzImage or vmlinux",
    .details =
        "Of its modules, those that a guest needs are taken, with what they depend on; what is\n"
        "built in has no file and needs none.\n",
    .example = "volt kernel import /boot/vmlinuz-6.1.0 --modules /lib/modules/6.1.0 --name mine",
    .options = kImportOptions,
    .least = 1,
    .most = 1,
    .run = import_kernel};

const Command kKernelLs = {.path = "kernel ls",
                           .operands = "",
                           .summary = "list kernels",
                           .details = "The one added last is what `--kernel latest` means.\n",
                           .example = "volt kernel ls --json",
                           .options = {},
                           .least = 0,
                           .most = 0,
                           .run = list_kernels};

const Command kKernelRm = {.path = "kernel rm",
                           .operands = "NAME...",
                           .summary = "remove kernels",
                           .details = "Snapshots of guests that ran them need them no more.\n",
                           .example = "volt kernel rm mine",
                           .options = {},
                           .least = 1,
                           .most = -1,
                           .run = remove_kernels};

}  // namespace volt::tools
