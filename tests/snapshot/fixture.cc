#include "tests/snapshot/fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iterator>

#include "uffd/userfaultfd.h"
#include "vmm/os/file.h"

namespace volt::test {

snapshot::Reference named(std::string_view text) {
  return must(snapshot::Reference::parse(text));
}

bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

bool long_run() {
  const char* const wanted = std::getenv("VOLT_LONG");
  return wanted != nullptr && std::string_view(wanted) == "1";
}

TempDir::TempDir(const std::filesystem::path& parent) {
  path_ = parent / "volt-test-XXXXXX";
  if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("mkdtemp " + path_);
}

TempDir::~TempDir() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

std::vector<std::byte> read_file(const std::string& path) {
  const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_RDONLY));
  return must(read_whole(file, must(file_size(file, path)), path));
}

void write_file(const std::string& path, std::span<const std::byte> bytes) {
  // Snapshots' files are read-only, which does not stop root; a new file stops nobody.
  ::unlink(path.c_str());
  const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_WRONLY | O_CREAT | O_EXCL, 0644));
  must(write_all(file, bytes, 0, path));
}

void flip_bit(const std::string& path, std::uint64_t bit) {
  ::chmod(path.c_str(), 0644);
  const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_RDWR));
  std::byte byte[1];
  must(read_exact(file, byte, bit / 8, path));
  byte[0] ^= static_cast<std::byte>(1U << (bit % 8));
  must(write_all(file, byte, bit / 8, path));
}

void cut_file(const std::string& path, std::uint64_t bytes) {
  ::chmod(path.c_str(), 0644);
  if (::truncate(path.c_str(), static_cast<off_t>(bytes)) != 0) {
    throw std::runtime_error("truncate " + path);
  }
}

std::string directory_of(const Store& store, const snapshot::Reference& reference) {
  return store.path() + "/snapshots/" + must(store.digest_of(reference));
}

std::vector<std::string> entries_of(const Store& store) {
  std::vector<std::string> entries;
  for (const char* folder : {"snapshots", "names"}) {
    for (const std::string& entry : must(directory_entries(store.path() + "/" + folder))) {
      entries.push_back(std::string(folder) + "/" + entry);
    }
  }
  return entries;
}

vmm::BootConfig kv_config() {
  return {.workload = guest_abi::Workload::kKv,
          .ram_bytes = kSmallRam,
          .working_set_bytes = kPages * guest_abi::kPageBytes,
          .seed = kSeed};
}

vmm::BootConfig echo_config() {
  return {.workload = guest_abi::Workload::kEcho, .ram_bytes = kSmallRam, .seed = kSeed};
}

std::unique_ptr<Sandbox> boot_guest(const vmm::Kvm& kvm, const vmm::BootConfig& config) {
  return must(snapshot::boot_sandbox(kvm, {tools::micro_image(), config}, soon())).sandbox;
}

std::unique_ptr<Sandbox> boot_exact_guest(const vmm::Kvm& kvm) {
  return must(snapshot::boot_sandbox(kvm, {exact_image(), echo_config()}, soon())).sandbox;
}

Result<vmm::Reply> call(Sandbox& sandbox, const vmm::Call& call) {
  return sandbox.call(call, soon(), {});
}

Result<vmm::Reply> call(Sandbox& sandbox, Function function,
                        std::initializer_list<std::uint64_t> arguments) {
  return call(sandbox, {.function = function, .arguments = words(arguments)});
}

guest_abi::HealthReply health(Sandbox& sandbox) {
  return reply_as<guest_abi::HealthReply>(must(call(sandbox, Function::kHealth)));
}

std::uint64_t random_word(Sandbox& sandbox) {
  return reply_as<std::uint64_t>(must(call(sandbox, Function::kRandom, {8})));
}

std::uint64_t scan(Sandbox& sandbox) {
  const std::uint64_t pages = sandbox.facts().guest.working_set_bytes() / guest_abi::kPageBytes;
  return must(call(sandbox, Function::kScan, {0, pages})).checksum;
}

std::uint64_t seeded_scan(std::uint64_t seed, std::uint64_t pages) {
  guest_abi::Checksum sum;
  for (std::uint64_t i = 0; i < pages * guest_abi::kPageBytes / 8; ++i) {
    sum.add(guest_abi::seeded_word(seed, i));
  }
  return sum.value();
}

std::vector<std::byte> memory_of(const Sandbox& sandbox, std::size_t region) {
  const vmm::GuestMemory& memory = sandbox.machine().memory();
  std::vector<std::byte> bytes(memory.regions()[region].host.size());
  must(memory.read(memory.regions()[region].guest_base, bytes));
  return bytes;
}

snapshot::Captured capture(const vmm::Kvm& kvm, Sandbox& sandbox, const Store& store,
                           std::string_view name) {
  return must(snapshot::capture(kvm, sandbox, store, named(name), {}));
}

Result<snapshot::Restored> SnapshotTest::try_restore(std::string_view name, Loader loader) const {
  return snapshot::restore(kvm(), store_, named(name), {.loader = loader});
}

std::unique_ptr<Sandbox> SnapshotTest::restore(std::string_view name, Loader loader) const {
  return must(try_restore(name, loader)).sandbox;
}

void EveryLoaderTest::SetUp() {
  SnapshotTest::SetUp();
  if (IsSkipped() || HasFatalFailure() || GetParam() != Loader::kUffd) return;
  if (Result<uffd::Userfaultfd> usable = uffd::Userfaultfd::open(); !usable) {
    VOLT_HOST_UNABLE(usable.error());
  }
}

}  // namespace volt::test
