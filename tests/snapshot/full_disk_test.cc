// Captures that run out of room at every point there is: an error, nothing left behind, and the
// source as alive as before.
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <cerrno>

#include "tests/snapshot/child.h"
#include "tests/snapshot/fixture.h"
#include "tests/snapshot/small_disk.h"
#include "vmm/os/file.h"

namespace volt::test {
namespace {

using snapshot::Captured;

class FullDiskTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    may_mount_ = test::may_mount();
  }
  bool may_mount() const { return may_mount_; }

 private:
  bool may_mount_ = false;
};

// A capture that cannot be: nothing of it may be left, and its source must answer.
void expect_clean_failure(const vmm::Kvm& kvm, Sandbox& guest, const Store& store) {
  const std::vector<std::string> before = entries_of(store);
  const Result<Captured> captured = snapshot::capture(kvm, guest, store, named("new"), {});
  check(!captured, "captured without room");
  check(captured.error().code == Code::kSystem, captured.error().context);
  check(entries_of(store) == before, "left behind after: " + captured.error().context);
  check(scan(guest) == seeded_scan(), "the source changed");
}

void expect_good_capture(const vmm::Kvm& kvm, Sandbox& guest, const Store& store) {
  test::capture(kvm, guest, store, "new");
  must(snapshot::verify(store, named("new"), snapshot::Depth::kDeep));
  auto restored = must(snapshot::restore(kvm, store, named("new"), {.loader = Loader::kMap}));
  check(scan(*restored.sandbox) == seeded_scan(), "the clone differs");
  restored.sandbox.reset();
  must(store.remove(named("new")));
}

// Every size of disk from nothing to enough, page by page where the last files are written.
TEST_F(FullDiskTest, ADiskThatIsFullAtAnyPointFailsTheCaptureAndNothingElse) {
  if (!may_mount()) GTEST_SKIP() << "mounting needs root; the next test does without";
  Child child([this] {
    const std::string disk = store().path();
    mount_small(disk, "size=64m");
    const vmm::Kvm own = must(vmm::Kvm::open());
    const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
    const std::uint64_t empty = used_blocks(disk);
    const Captured whole = test::capture(own, *guest, store(), "new");
    const std::uint64_t needed = used_blocks(disk);
    check(needed - empty > whole.stored_bytes / 4096, "the disk is not where the snapshot went");
    must(store().remove(named("new")));

    const auto fill = [&](std::uint64_t pages) {
      resize(disk, "size=" + std::to_string(pages * 4096));
      expect_clean_failure(own, *guest, store());
    };
    for (std::uint64_t pages = 1; pages + 16 < needed; pages += 61) fill(pages);
    for (std::uint64_t pages = needed - 10; pages < needed; ++pages) fill(pages);
    resize(disk, "size=64m");
    check(used_blocks(disk) <= empty + 4, "blocks were leaked");
    expect_good_capture(own, *guest, store());
  });
  EXPECT_EQ(child.failure(), "");
}

// The disk has room, but for fewer files than a snapshot has: each creation fails once.
TEST_F(FullDiskTest, ADiskWithoutRoomForAnotherFileFailsTheCaptureAndNothingElse) {
  if (!may_mount()) GTEST_SKIP() << "mounting needs root; the next test does without";
  Child child([this] {
    const std::string disk = store().path();
    mount_small(disk, "size=64m");
    const vmm::Kvm own = must(vmm::Kvm::open());
    const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
    must(make_directories(disk + "/snapshots"));
    must(make_directories(disk + "/names"));
    // The root and these two; then the draft, four files, and the name.
    for (int inodes = 3; inodes < 9; ++inodes) {
      resize(disk, "nr_inodes=" + std::to_string(inodes));
      expect_clean_failure(own, *guest, store());
    }
    resize(disk, "nr_inodes=20");
    expect_good_capture(own, *guest, store());
  });
  EXPECT_EQ(child.failure(), "");
}

TEST_F(FullDiskTest, ALimitOnTheSizeOfFilesFailsTheCaptureAndNothingElse) {
  Child child([this] {
    const vmm::Kvm own = must(vmm::Kvm::open());
    const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
    ::signal(SIGXFSZ, SIG_IGN);  // the write fails with EFBIG instead
    rlimit before = {};
    check(::getrlimit(RLIMIT_FSIZE, &before) == 0, "getrlimit");
    // Within the memory, and where only its end does not fit.
    for (const std::uint64_t bytes : {std::uint64_t{4096}, 7 * kMiB, kSmallRam - 4096}) {
      const rlimit limit = {.rlim_cur = bytes, .rlim_max = before.rlim_max};
      check(::setrlimit(RLIMIT_FSIZE, &limit) == 0, "setrlimit");
      expect_clean_failure(own, *guest, store());
    }
    check(::setrlimit(RLIMIT_FSIZE, &before) == 0, "setrlimit back");
    expect_good_capture(own, *guest, store());
  });
  EXPECT_EQ(child.failure(), "");
}

TEST_F(FullDiskTest, AFailedReplacementKeepsWhatTheNameHad) {
  if (!may_mount()) GTEST_SKIP() << "mounting needs root";
  Child child([this] {
    const std::string disk = store().path();
    mount_small(disk, "size=64m");
    const vmm::Kvm own = must(vmm::Kvm::open());
    const std::unique_ptr<Sandbox> guest = boot_guest(own, kv_config());
    test::capture(own, *guest, store(), "kept");
    const std::vector<std::string> before = entries_of(store());
    resize(disk, "size=" + std::to_string((used_blocks(disk) + 100) * 4096));
    const Result<Captured> replaced = snapshot::capture(
        own, *guest, store(), named("kept"), {.labels = {}, .if_taken = Store::IfTaken::kReplace});
    check(!replaced, "replaced without room");
    check(entries_of(store()) == before, "the store changed");
    must(snapshot::verify(store(), named("kept"), snapshot::Depth::kDeep));
  });
  EXPECT_EQ(child.failure(), "");
}

}  // namespace
}  // namespace volt::test
