// VMs whose memory comes from a pager in another process: they need no store, share its image, and
// survive what can happen to it.
#include <gtest/gtest.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <future>
#include <nlohmann/json.hpp>

#include "snapshot/pager_images.h"
#include "snapshot/storage.h"
#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

using snapshot::PagerImages;
using snapshot::RestoreOptions;

constexpr timespec kPatience = {.tv_sec = 60, .tv_nsec = 0};

class PagerTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    if (const auto usable = snapshot::uffd_usable(); !usable) VOLT_HOST_UNABLE(usable.error());
    capture(*boot_kv(), "kv");
    pager_ = start(spare_pager());
  }

  std::string path() const { return sockets_.path() + "/pager"; }

  // A pager in a process of its own that waits to be told to start. It is forked while this process
  // has one thread: a sanitizer follows no threads in the child of a process with several.
  struct Spare {
    Fd tell;
    std::unique_ptr<Child> process;
  };
  Spare spare_pager() const {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
    const Fd told(ends[0]);
    Spare spare = {.tell = Fd(ends[1]), .process = nullptr};
    spare.process = std::make_unique<Child>([&](const Child& self) {
      spare.tell = Fd();
      char word = 0;
      if (::read(told.get(), &word, 1) != 1) return;  // the test has ended
      PagerImages images(store(), {.threads = 2});
      const auto service = must(uffd::PagerService::start(
          {.path = path(),
           .open = [&](const std::string& name) { return images.open(name); },
           .stats = [&] { return images.stats(); },
           .firecracker_image = "kv"}));
      self.say("r");
      for (;;) ::pause();
    });
    return spare;
  }
  // It listens when this returns.
  static std::unique_ptr<Child> start(Spare spare) {
    const bool told = ::write(spare.tell.get(), "s", 1) == 1;
    if (!told || !spare.process->hears(&kPatience) || spare.process->next() != 'r') {
      throw std::runtime_error("no pager");
    }
    return std::move(spare.process);
  }

  // Without any store.
  std::unique_ptr<Sandbox> clone(bool isolated = false) const {
    RestoreOptions options;
    options.pager = path();
    options.isolate_image = isolated;
    return must(snapshot::restore(kvm(), Store("/nowhere"), named("kv"), options)).sandbox;
  }

  static void await_takeovers(const Sandbox& vm, std::uint64_t count) {
    while (vm.pager().away()->takeovers() < count) ::poll(nullptr, 0, 5);
  }

  nlohmann::json stats() const {
    return nlohmann::json::parse(must(snapshot::pager_stats(path())))["images"][0];
  }

  TempDir sockets_;
  std::unique_ptr<Child> pager_;
};

TEST_F(PagerTest, AVmWithoutAnyStoreSeesWhatWasCaptured) {
  for (const bool isolated : {false, true}) {
    const auto vm = clone(isolated);
    EXPECT_EQ(scan(*vm), seeded_scan());
  }
}

TEST_F(PagerTest, ClonesBringEachUnitInOnce) {
  EXPECT_EQ(scan(*clone()), seeded_scan());
  const auto first = stats();
  for (const bool isolated : {false, true}) {
    Child other([&] { check(scan(*clone(isolated)) == seeded_scan(), "other memory"); });
    EXPECT_EQ(other.failure(), "");
  }
  const auto after = stats();
  EXPECT_EQ(after["units_filled"], first["units_filled"]);
  EXPECT_EQ(after["units_verified"], first["units_verified"]);
  EXPECT_EQ(after["units_wasted"], 0);
}

TEST_F(PagerTest, WhatOneCloneWritesNoOtherSees) {
  const auto one = clone();
  const auto other = clone();
  expect_ok(call(*one, Function::kWrite, {0, kPages, 7}));
  EXPECT_EQ(scan(*other), seeded_scan());
  EXPECT_NE(scan(*one), seeded_scan());
}

TEST_F(PagerTest, AVmThatGoesIsForgotten) {
  {
    EXPECT_EQ(scan(*clone()), seeded_scan());
  }
  {
    Child dies([&] {
      const auto vm = clone();
      static_cast<void>(scan(*vm));
      ::_exit(0);
    });
    EXPECT_EQ(dies.failure(), "");
  }
  while (stats()["clones"] != 0) ::poll(nullptr, 0, 5);  // or the test's own deadline
  EXPECT_EQ(scan(*clone()), seeded_scan());
}

TEST_F(PagerTest, ACaptureOfSuchACloneIsWhole) {
  const auto vm = clone();
  capture(*vm, "copy");
  EXPECT_EQ(scan(*restore("copy")), seeded_scan());
}

// Firecracker's protocol from our side, in front of a pager that takes it.
TEST_F(PagerTest, AHandlerWrittenForFirecrackerFillsAVm) {
  RestoreOptions options;
  options.uffd_handler = path();
  const auto vm = must(snapshot::restore(kvm(), store(), named("kv"), options)).sandbox;
  EXPECT_EQ(scan(*vm), seeded_scan());
  const auto asleep = must(snapshot::restore(kvm(), store(), named("kv"), options)).sandbox;
  pager_->kill(SIGKILL);
  const Error error = must_fail(call(*asleep, Function::kScan, {0, kPages}));
  EXPECT_EQ(error.code, Code::kPageLost) << error.context;
  EXPECT_TRUE(contains(error.context, "the handler at " + path())) << error.context;
  EXPECT_EQ(scan(*vm), seeded_scan());
}

TEST_F(PagerTest, ARefusalSaysWhy) {
  RestoreOptions options;
  options.pager = path();
  const Store nowhere("/nowhere");
  const Error error = must_fail(snapshot::restore(kvm(), nowhere, named("missing"), options));
  EXPECT_EQ(error.code, Code::kNotFound);
  EXPECT_TRUE(contains(error.context, "missing:latest")) << error.context;
  options.loader = Loader::kMap;
  EXPECT_EQ(must_fail(snapshot::restore(kvm(), nowhere, named("kv"), options)).code,
            Code::kInvalid);
}

// Kilobytes that no other process maps.
std::uint64_t private_kib() {
  std::ifstream smaps("/proc/self/smaps_rollup");
  std::uint64_t sum = 0;
  for (std::string line; std::getline(smaps, line);) {
    unsigned long long kib = 0;
    if (std::sscanf(line.c_str(), "Private_%*[A-Za-z]: %llu kB", &kib) == 1) sum += kib;
  }
  return sum;
}

// Each alive while the others are, with all of the working set read and 1 MiB of it written. The
// long gate has the bar's own sizes.
TEST_F(PagerTest, ClonesInProcessesOfTheirOwnCostWhatTheyWrite) {
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  GTEST_SKIP() << "a sanitizer's own memory would be counted";
#endif
  const std::size_t count = long_run() ? 100 : 8;
  vmm::BootConfig config = kv_config();
  if (long_run()) {
    config.ram_bytes = 256 * kMiB;
    config.working_set_bytes = 64 * kMiB;
  }
  constexpr std::uint64_t kWritten = kMiB / 4096, kOwnKib = 512;
  const std::uint64_t pages = config.working_set_bytes / 4096;
  capture(*boot_guest(kvm(), config), "large");
  must(snapshot::pack(store(), named("large"), {}));
  std::vector<std::unique_ptr<Child>> clones;
  for (std::size_t i = 0; i < count; ++i) {
    clones.push_back(std::make_unique<Child>([&](const Child& self) {
      const std::uint64_t before = private_kib();
      RestoreOptions options;
      options.pager = path();
      const auto vm =
          must(snapshot::restore(kvm(), Store("/nowhere"), named("large"), options)).sandbox;
      must(call(*vm, Function::kScan, {0, pages}));
      must(call(*vm, Function::kWrite, {0, kWritten, 7}));
      const std::uint64_t own = private_kib() - before;
      check(own <= kWritten * 4 + kOwnKib, std::to_string(own) + " KiB are its own");
      self.say("r" + std::to_string(own) + " ");
      for (;;) ::pause();
    }));
    if (!clones.back()->hears(&kPatience)) FAIL() << "a clone that says nothing";
  }
  for (const auto& clone : clones) {
    clone->kill(SIGKILL);
    const std::string said = clone->failure();
    EXPECT_TRUE(said.starts_with("r")) << said;
    if (clone == clones.back()) RecordProperty("private_kib", said);
    if (clone == clones.back()) std::printf("private KiB of a clone: %s\n", said.c_str());
  }
  const auto all = nlohmann::json::parse(must(snapshot::pager_stats(path())))["images"];
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0]["units_filled"], all[0]["units_verified"]) << "each came once";
  EXPECT_EQ(all[0]["units_read"], all[0]["units_verified"]);
  EXPECT_EQ(all[0]["units_wasted"], 0);
  EXPECT_GE(all[0]["units_filled"], config.working_set_bytes / kUnitBytes);
  EXPECT_LE(all[0]["units_filled"], all[0]["units"]);
}

// ---- The pager dies.

TEST_F(PagerTest, AGuestThatNeedsPagesOfADeadPagerStopsAndNamesIt) {
  constexpr std::uint64_t kFew = 64;
  const auto needs = clone();
  const auto isolated = clone(true);
  const auto needs_nothing = clone();
  expect_ok(call(*needs_nothing, Function::kScan, {0, kFew}));
  static_cast<void>(health(*needs));
  static_cast<void>(health(*isolated));
  pager_->kill(SIGKILL);
  static_cast<void>(pager_->failure());
  for (Sandbox* const vm : {needs.get(), isolated.get()}) {
    const Error error = must_fail(call(*vm, Function::kScan, {0, kPages}));
    EXPECT_EQ(error.code, Code::kPageLost) << error.context;
    EXPECT_TRUE(contains(error.context, path())) << error.context;
  }
  expect_ok(call(*needs_nothing, Function::kScan, {0, kFew}));
}

// The threads of a stopped process answer nothing, so the guest sleeps in a fault, in KVM_RUN.
TEST_F(PagerTest, AGuestAsleepInAFaultComesOutWhenItsPagerIsKilled) {
  const auto vm = clone();
  static_cast<void>(health(*vm));
  pager_->kill(SIGSTOP);
  auto reply =
      std::async(std::launch::async, [&] { return call(*vm, Function::kScan, {0, kPages}); });
  EXPECT_EQ(reply.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  pager_->kill(SIGKILL);
  const Error error = must_fail(reply.get());
  EXPECT_EQ(error.code, Code::kPageLost) << error.context;
  EXPECT_TRUE(contains(error.context, path())) << error.context;
  // And it stays so.
  EXPECT_FALSE(call(*vm, Function::kScan, {0, kPages}));
}

TEST_F(PagerTest, APagerThatIsStartedAgainTakesItsVmsOver) {
  Spare second = spare_pager(), third = spare_pager();
  const auto asleep = clone();
  const auto isolated = clone(true);
  const auto idle = clone();
  expect_ok(call(*idle, Function::kPut, {3, 99}));
  pager_->kill(SIGSTOP);
  auto reply = std::async(std::launch::async, [&] { return scan(*asleep); });
  auto other = std::async(std::launch::async, [&] { return scan(*isolated); });
  EXPECT_EQ(reply.wait_for(std::chrono::milliseconds(200)), std::future_status::timeout);
  pager_->kill(SIGKILL);
  static_cast<void>(pager_->failure());
  pager_ = start(std::move(second));
  EXPECT_EQ(reply.get(), seeded_scan());
  EXPECT_EQ(other.get(), seeded_scan());
  // Told after its pages. Every one of them, or the third pager may be the first that one sees.
  for (const Sandbox* vm : {asleep.get(), isolated.get(), idle.get()}) await_takeovers(*vm, 1);
  const vmm::Reply got = must(call(*idle, Function::kGet, {3}));
  EXPECT_EQ(got.data[0], std::byte{99}) << "what it wrote is still there";
  // A second time, the same.
  pager_->kill(SIGKILL);
  static_cast<void>(pager_->failure());
  pager_ = start(std::move(third));
  EXPECT_EQ(scan(*clone()), seeded_scan());
  await_takeovers(*idle, 2);
}

// ---- A unit is damaged.

TEST_F(PagerTest, ADamagedUnitStopsOnlyTheGuestsThatNeedIt) {
  const auto before = clone();
  static_cast<void>(health(*before));
  const auto opened = must(snapshot::OpenedSnapshot::open(store(), named("kv")));
  const std::uint64_t base = opened.manifest().guest().working_set_base();
  const std::string memory = file("kv", "memory");
  ASSERT_EQ(::chmod(memory.c_str(), 0644), 0);
  flip_bit(memory, (base + 300 * 4096) * 8);
  const Error error = must_fail(call(*before, Function::kScan, {0, kPages}));
  EXPECT_EQ(error.code, Code::kPageLost) << error.context;
  EXPECT_TRUE(contains(error.context, "memory")) << error.context;
  EXPECT_TRUE(contains(error.context, "unit")) << error.context;
  const auto other = clone();
  expect_ok(call(*other, Function::kScan, {0, 200}));
  EXPECT_FALSE(call(*other, Function::kScan, {300, 1}));
}

}  // namespace
}  // namespace volt::test
