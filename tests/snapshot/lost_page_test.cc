// Guests that need a page which cannot be had stop, at once and for good: with UFFDIO_POISON (KVM
// sends SIGBUS), and without it as on Linux 6.1 (KVM_RUN says EFAULT).
#include <gtest/gtest.h>

#include <csignal>
#include <thread>

#include "snapshot/state_codec.h"
#include "tests/snapshot/fixture.h"
#include "vmm/identity.h"
#include "vmm/micro_cpu.h"

namespace volt::test {
namespace {

using formats::IndexEntry;
using snapshot::OpenedSnapshot;
using uffd::LostPages;

class LostPageTest : public SnapshotTest, public testing::WithParamInterface<LostPages> {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const Result<uffd::Userfaultfd> usable = uffd::Userfaultfd::open();
    if (!usable) VOLT_HOST_UNABLE(usable.error());
    const bool can = (usable->offered() & uffd::abi::kFeaturePoison) != 0;
    if (GetParam() == LostPages::kPoison && !can) GTEST_SKIP() << "this kernel cannot poison pages";
    capture(*boot_kv(), "kv");
    snapshot_ =
        std::make_shared<const OpenedSnapshot>(must(OpenedSnapshot::open(store(), named("kv"))));
    damage(kFirst);
    damage(kSecond);
  }

  // Pages of the working set, in different units.
  static constexpr std::uint64_t kFirst = 100, kSecond = 300;

  std::unique_ptr<Sandbox> clone() const {
    std::unique_ptr<vmm::Machine> machine = must(vmm::Machine::build(kvm(), 1));
    snapshot::LoadedMemory loaded =
        must(load_memory(Loader::kUffd, snapshot_, {.faults = {.lost_pages = GetParam()}}));
    must(machine->attach_memory(std::move(loaded.memory), loaded.attach));
    const auto& resume = snapshot_->state().resume();
    machine->start(vmm::micro_regs(resume.entry(), resume.stack_top(), resume.argument()),
                   snapshot::sregs_from(snapshot_->state().vcpus(0).special()));
    machine->exchange().set_identity(must(vmm::fresh_identity(must(machine->tsc_khz()))));
    return std::make_unique<Sandbox>(
        std::move(loaded.pager), std::move(machine),
        Sandbox::Facts{.guest = snapshot_->manifest().guest(), .resume = {}, .parent = {}});
  }

  IndexEntry entry_of(std::uint64_t page) const {
    const std::uint64_t address = snapshot_->manifest().guest().working_set_base() + page * 4'096;
    return must(snapshot_->index().find(address / kUnitBytes)).value();
  }
  std::string unit_text(std::uint64_t page) const {
    return "memory: unit " + std::to_string(entry_of(page).unit) + " at file offset ";
  }
  static Error scan_fails(Sandbox& sandbox, std::uint64_t page) {
    return must_fail(call(sandbox, Function::kScan, {page, 1}));
  }

 private:
  void damage(std::uint64_t page) const {
    flip_bit(file("kv", snapshot::kMemoryFile), entry_of(page).place * 8 + 77);
  }
  std::shared_ptr<const OpenedSnapshot> snapshot_;
};

INSTANTIATE_TEST_SUITE_P(BothWays, LostPageTest,
                         testing::Values(LostPages::kPoison, LostPages::kForbid),
                         [](const auto& way) {
                           return way.param == LostPages::kPoison ? "poison" : "forbid";
                         });

TEST_P(LostPageTest, AGuestStopsWithTheReasonAndDoesNotGoOn) {
  const std::unique_ptr<Sandbox> sandbox = clone();
  health(*sandbox);
  const Error error = scan_fails(*sandbox, kFirst);
  EXPECT_EQ(error.code, Code::kPageLost);
  EXPECT_TRUE(contains(error.context, "image unit ")) << error.context;
  EXPECT_TRUE(contains(error.context, unit_text(kFirst))) << error.context;
  // It stands at the instruction that needs the page.
  const Result<vmm::Doorbell> again = sandbox->machine().run(soon());
  EXPECT_EQ(must_fail(again).code, Code::kPageLost);
}

TEST_P(LostPageTest, EachGuestSaysWhichUnitItNeeded) {
  const std::unique_ptr<Sandbox> one = clone(), other = clone();
  health(*one);
  health(*other);
  EXPECT_TRUE(contains(scan_fails(*one, kFirst).context, unit_text(kFirst)));
  EXPECT_TRUE(contains(scan_fails(*other, kSecond).context, unit_text(kSecond)));
}

TEST_P(LostPageTest, AGuestThatDoesNotNeedItGoesOn) {
  const std::unique_ptr<Sandbox> sandbox = clone();
  must(call(*sandbox, Function::kScan, {0, 64}));
  EXPECT_FALSE(sandbox->pager().failure());
}

// KVM's signal is not forced on a thread: one that blocks it would never leave the kernel.
TEST_P(LostPageTest, AThreadThatBlocksEverySignalIsStoppedToo) {
  const std::unique_ptr<Sandbox> sandbox = clone();
  std::optional<Error> error;
  std::thread runner([&] {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, nullptr);
    error = scan_fails(*sandbox, kFirst);
  });
  runner.join();
  ASSERT_TRUE(error);
  EXPECT_EQ(error->code, Code::kPageLost) << error->context;
}

TEST_P(LostPageTest, TheHostReadsEverythingElse) {
  const std::unique_ptr<Sandbox> sandbox = clone();
  const std::uint64_t base = sandbox->facts().guest.working_set_base();
  std::vector<std::byte> page(4'096);
  const vmm::GuestMemory& memory = sandbox->machine().memory();
  EXPECT_EQ(must_fail(memory.read(base + kFirst * 4'096, page)).code, Code::kPageLost);
  EXPECT_EQ(must_fail(memory.write(base + kFirst * 4'096, page)).code, Code::kPageLost);
  must(memory.read(base + (kFirst + 32) * 4'096, page));
}

}  // namespace
}  // namespace volt::test
