// However memory arrives - mapped, faulted in, or copied - the guest is the one that was captured.
#include "snapshot/restore.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "snapshot/state_codec.h"
#include "tests/snapshot/fixture.h"
#include "vmm/identity.h"
#include "vmm/micro_cpu.h"

namespace volt::test {
namespace {

using snapshot::Captured;
using snapshot::OpenedSnapshot;
using snapshot::Restored;

class RestoreTest : public EveryLoaderTest {};

INSTANTIATE_TEST_SUITE_P(EveryLoader, RestoreTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

TEST_P(RestoreTest, TheGuestsSumsAreThoseTheHostComputesFromTheSeed) {
  capture(*boot_kv(), "kv");
  const std::unique_ptr<Sandbox> clone = restore("kv");
  EXPECT_EQ(must(call(*clone, Function::kHealth)).checksum, seeded_scan(kSeed, 1));
  EXPECT_EQ(scan(*clone), seeded_scan());
  EXPECT_EQ(clone->facts().guest.health_checksum(), seeded_scan(kSeed, 1));
  EXPECT_EQ(clone->facts().guest.working_set_checksum(), seeded_scan());
}

TEST_P(RestoreTest, TheHostReadsEveryByteOfRamAsItWasCaptured) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> before = memory_of(*guest);
  capture(*guest, "kv");
  EXPECT_EQ(memory_of(*guest), before) << "the capture changed its source";
  EXPECT_EQ(memory_of(*restore("kv")), before);
}

TEST_P(RestoreTest, ACloneThatHasNotRunCapturesToTheSameMemoryDigest) {
  const Captured first = capture(*boot_kv(), "first");
  const std::unique_ptr<Sandbox> clone = restore("first");
  const Captured second = capture(*clone, "second");
  EXPECT_EQ(second.memory_digest, first.memory_digest);
  EXPECT_EQ(second.stored_bytes, first.stored_bytes);
  EXPECT_NE(second.digest, first.digest);
  expect_ok(snapshot::verify(store(), named("second"), snapshot::Depth::kDeep));
}

// Pages of guest RAM that differ, as guest-physical addresses.
std::vector<std::uint64_t> different_pages(std::span<const std::byte> a,
                                           std::span<const std::byte> b) {
  std::vector<std::uint64_t> pages;
  for (std::size_t at = 0; at < a.size(); at += 4096) {
    if (!std::ranges::equal(a.subspan(at, 4096), b.subspan(at, 4096))) pages.push_back(at);
  }
  return pages;
}

TEST_P(RestoreTest, AfterOneReadOnlyCallOnlyTheDocumentedPagesDiffer) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const std::vector<std::byte> before = memory_of(*guest);
  capture(*guest, "kv");
  const std::unique_ptr<Sandbox> clone = restore("kv");
  scan(*clone);
  const std::vector<std::uint64_t> changed = different_pages(memory_of(*clone), before);
  EXPECT_FALSE(changed.empty()) << "it counts its calls, so something must differ";
  const auto& facts = clone->facts().guest;
  EXPECT_LE(facts.mutable_bytes(), kMiB) << "the documented range is no statement";
  for (const std::uint64_t page : changed) {
    EXPECT_LT(page - facts.mutable_base(), facts.mutable_bytes()) << "page at " << page;
  }
}

TEST_P(RestoreTest, CallsGoOnBeingCountedWhereTheCaptureStoppedThem) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  EXPECT_EQ(health(*guest).calls_served, 1U);
  EXPECT_EQ(health(*guest).calls_served, 2U);
  capture(*guest, "kv");
  EXPECT_EQ(health(*restore("kv")).calls_served, 3U);
  EXPECT_EQ(health(*restore("kv")).calls_served, 3U);
  EXPECT_EQ(health(*guest).calls_served, 3U) << "the source does not go on where it was";
}

TEST_P(RestoreTest, CheckingEverythingFirstChangesNothingInAWholeSnapshot) {
  capture(*boot_kv(), "kv");
  Restored restored = must(snapshot::restore(
      kvm(), store(), named("kv"),
      {.loader = GetParam(), .verify = snapshot::RestoreOptions::Verify::kEverythingFirst}));
  EXPECT_EQ(restored.loader.loader, GetParam());
  EXPECT_EQ(scan(*restored.sandbox), seeded_scan());
}

TEST_P(RestoreTest, ASnapshotCanBeNamedByItsDigest) {
  const Captured captured = capture(*boot_echo(), "echo:v1");
  const std::string digest = "sha256:" + formats::to_hex(captured.digest);
  health(*restore(digest));
  health(*restore("echo:v1@" + digest));
  const Error error = must_fail(
      try_restore("echo:v1@sha256:" + formats::to_hex(captured.memory_digest), GetParam()));
  EXPECT_EQ(error.code, Code::kNotFound) << "the name has moved on to another snapshot";
  EXPECT_TRUE(contains(error.context, "its digest is " + digest)) << error.context;
}

TEST_P(RestoreTest, AReadOnlyMistakeOfTheCallerDoesNotEndTheClone) {
  capture(*boot_kv(), "kv");
  const std::unique_ptr<Sandbox> clone = restore("kv");
  EXPECT_EQ(must_fail(call(*clone, Function::kScan, {0, kPages + 1})).code, Code::kInvalid);
  EXPECT_EQ(scan(*clone), seeded_scan());
}

// The three calls that a pool of prepared VMs needs: the first, for any guest, ahead of time.
TEST_P(RestoreTest, AVmBuiltAheadOfTimeTakesMemoryAndStateLater) {
  std::unique_ptr<vmm::Machine> prepared = must(vmm::Machine::build(kvm(), 1));
  capture(*boot_kv(), "kv");

  const auto snapshot =
      std::make_shared<const OpenedSnapshot>(must(OpenedSnapshot::open(store(), named("kv"))));
  snapshot::LoadedMemory loaded = must(snapshot::load_memory(GetParam(), snapshot));
  must(prepared->attach_memory(std::move(loaded.memory), loaded.attach));
  const auto& resume = snapshot->state().resume();
  prepared->start(vmm::micro_regs(resume.entry(), resume.stack_top(), resume.argument()),
                  snapshot::sregs_from(snapshot->state().vcpus(0).special()));
  prepared->exchange().set_identity(must(vmm::fresh_identity(must(prepared->tsc_khz()))));
  Sandbox sandbox(std::move(loaded.pager), std::move(prepared),
                  {.guest = snapshot->manifest().guest(), .resume = {}, .parent = {}});
  EXPECT_EQ(scan(sandbox), seeded_scan());
}

TEST_P(RestoreTest, EveryPhaseIsReportedAndTheFirstCallCompletesThem) {
  capture(*boot_kv(), "kv");
  Restored restored = must(try_restore("kv", GetParam()));
  const snapshot::RestorePhases& phases = restored.phases;
  for (const std::uint64_t ns : {phases.resolve_ns, phases.vm_ns, phases.memory_ns, phases.slots_ns,
                                 phases.state_ns, phases.identity_ns}) {
    EXPECT_GT(ns, 0U);
  }
  EXPECT_EQ(phases.first_exit_ns, 0U);
  const std::uint64_t without_call = phases.total_ns();
  must(
      snapshot::first_call(restored, {.function = Function::kHealth, .arguments = {}}, soon(), {}));
  EXPECT_GT(phases.total_ns(), without_call);
}

class AutoRestoreTest : public SnapshotTest {};

TEST_F(AutoRestoreTest, AutoSaysWhatItPickedAndWhy) {
  capture(*boot_echo(), "echo");
  const Restored restored = must(try_restore("echo", Loader::kAuto));
  EXPECT_EQ(restored.loader.loader, Loader::kMap);
  EXPECT_FALSE(restored.loader.why.empty());
}

TEST_F(AutoRestoreTest, ANameThatIsNotThereIsNotFound) {
  EXPECT_EQ(must_fail(try_restore("nothing")).code, Code::kNotFound);
}

}  // namespace
}  // namespace volt::test
