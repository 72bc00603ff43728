// Damage to manifest, state and index: every truncation and every flipped bit is refused, and the
// error names the file and the field.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <numeric>

#include "formats/head.h"
#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

namespace volt::test {
namespace {

using snapshot::kIndexFile;
using snapshot::kManifestFile;
using snapshot::kStateFile;
using snapshot::OpenedSnapshot;

class DamageTest : public SnapshotTest {
 protected:
  void SetUp() override {
    SnapshotTest::SetUp();
    if (!IsSkipped() && !HasFatalFailure()) capture(*boot_exact_guest(kvm()), "small");
  }
  std::string path(const char* name) const { return file("small", name); }

  Result<> open() const {
    VOLT_TRY(OpenedSnapshot::open(store(), named("small")));
    return {};
  }
  // Heads and blocks, as `volt snapshot verify` does it.
  Result<> verify() const {
    VOLT_TRY(snapshot::verify(store(), named("small"), snapshot::Depth::kHeads));
    return {};
  }
};

// "snapshot small:latest: FILE: FIELD: what is wrong"
void expect_named(const Result<>& result, const std::string& file, const std::string& what) {
  ASSERT_FALSE(result) << "accepted " << what;
  const Error& error = result.error();
  EXPECT_TRUE(error.code == Code::kCorrupt || error.code == Code::kUnsupported) << error.context;
  const std::string start = "snapshot small:latest: " + file + ": ";
  ASSERT_TRUE(error.context.starts_with(start)) << error.context;
  EXPECT_TRUE(contains(error.context.substr(start.size()), ": ")) << error.context;
}

TEST_F(DamageTest, EveryTruncationOfEveryFileIsRefusedByOpening) {
  for (const std::string name : {kManifestFile, kStateFile, kIndexFile}) {
    const std::vector<std::byte> whole = read_file(path(name.c_str()));
    ASSERT_LT(whole.size(), 20'000U) << name;
    for (std::size_t n = whole.size(); n-- > 0;) {
      cut_file(path(name.c_str()), n);
      expect_named(open(), name, name + " of " + std::to_string(n) + " bytes");
      if (HasFatalFailure()) return;
    }
    write_file(path(name.c_str()), whole);
    expect_ok(open());
  }
}

TEST_F(DamageTest, AByteTooManyInAnyFileIsRefused) {
  for (const std::string name : {kManifestFile, kStateFile, kIndexFile}) {
    std::vector<std::byte> bytes = read_file(path(name.c_str()));
    bytes.push_back(std::byte{0});
    write_file(path(name.c_str()), bytes);
    expect_named(open(), name, name + " with a byte too many");
    bytes.pop_back();
    write_file(path(name.c_str()), bytes);
  }
}

// Flips bits of one file in place, looks at each, and flips them back.
template <typename Look>
void for_each_flip(const std::string& path, std::span<const std::uint64_t> bits, const Look& look) {
  const std::vector<std::byte> whole = read_file(path);
  write_file(path, whole);
  const Fd file = must(open_at(AT_FDCWD, path.c_str(), O_RDWR));
  for (const std::uint64_t bit : bits) {
    const std::byte right = whole[bit / 8];
    const std::byte wrong[1] = {right ^ static_cast<std::byte>(1U << (bit % 8))};
    must(write_all(file, wrong, bit / 8, path));
    look(bit);
    must(write_all(file, std::span(&right, 1), bit / 8, path));
  }
}

std::vector<std::uint64_t> every_bit(std::uint64_t bytes) {
  std::vector<std::uint64_t> bits(bytes * 8);
  std::iota(bits.begin(), bits.end(), std::uint64_t{0});
  return bits;
}

TEST_F(DamageTest, EveryFlippedBitOfTheManifestIsRefusedByOpening) {
  const std::uint64_t size = read_file(path(kManifestFile)).size();
  for_each_flip(path(kManifestFile), every_bit(size), [&](std::uint64_t bit) {
    expect_named(open(), kManifestFile, "bit " + std::to_string(bit));
  });
  expect_ok(verify());
}

// The head by opening, the blocks by verify; a clone checks a block when it first uses it.
TEST_F(DamageTest, EveryFlippedBitOfTheIndexIsRefusedByVerifyAndByOpening) {
  const std::uint64_t size = read_file(path(kIndexFile)).size();
  ASSERT_LT(size, 2'000U);
  for_each_flip(path(kIndexFile), every_bit(size), [&](std::uint64_t bit) {
    expect_named(verify(), kIndexFile, "bit " + std::to_string(bit));
    expect_named(open(), kIndexFile, "bit " + std::to_string(bit));
  });
  expect_ok(verify());
}

TEST_F(DamageTest, EveryFlippedBitOfTheStateIsRefusedByOpening) {
  const std::uint64_t size = read_file(path(kStateFile)).size();
  ASSERT_LT(size, 4'000U);
  for_each_flip(path(kStateFile), every_bit(size), [&](std::uint64_t bit) {
    expect_named(open(), kStateFile, "bit " + std::to_string(bit));
  });
  expect_ok(verify());
}

TEST_F(DamageTest, AMissingFileIsNamed) {
  for (const char* name : {kManifestFile, kStateFile, kIndexFile, snapshot::kMemoryFile}) {
    const std::vector<std::byte> whole = read_file(path(name));
    ASSERT_EQ(::unlink(path(name).c_str()), 0);
    const Error error = must_fail(open());
    EXPECT_EQ(error.code, Code::kNotFound);
    EXPECT_TRUE(contains(error.context, name)) << error.context;
    write_file(path(name), whole);
  }
}

// ---- Claims: a snapshot that says it is larger than anything must cost nothing to refuse.

constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;

class ClaimTest : public DamageTest {
 protected:
  // Puts a changed manifest in place, its sums right; what then opens the snapshot must refuse it.
  template <typename Change>
  void expect_refused(const std::string& field, const Change& change) const {
    formats::Manifest manifest = must(OpenedSnapshot::open(store(), named("small"))).manifest();
    change(manifest);
    const std::vector<std::byte> before = read_file(path(kManifestFile));
    const std::string body = manifest.SerializeAsString();
    write_file(path(kManifestFile),
               formats::seal(formats::FileKind::kManifest, std::as_bytes(std::span(body))));
    const Error error = must_fail(open());
    EXPECT_EQ(error.code, Code::kCorrupt);
    EXPECT_TRUE(contains(error.context, field)) << error.context;
    write_file(path(kManifestFile), before);
  }
  // As long as it claims to be, and empty.
  void make_sparse(const char* name, std::uint64_t bytes) const {
    write_file(path(name), {});
    ASSERT_EQ(::truncate(path(name).c_str(), static_cast<off_t>(bytes)), 0);
  }
};

using formats::Manifest;

TEST_F(ClaimTest, SizesBeyondEveryLimitAreRefusedByTheManifest) {
  expect_refused("manifest: memory.regions[0].size_bytes", [](Manifest& manifest) {
    manifest.mutable_memory()->mutable_regions(0)->set_size_bytes(kHuge);
  });
  expect_refused("manifest: memory.stored_bytes",
                 [](Manifest& manifest) { manifest.mutable_memory()->set_stored_bytes(kHuge); });
  expect_refused("manifest: memory.data[0].size_bytes", [](Manifest& manifest) {
    manifest.mutable_memory()->mutable_data(0)->set_size_bytes(kHuge);
  });
  expect_refused("manifest: memory.unit_bytes",
                 [](Manifest& manifest) { manifest.mutable_memory()->set_unit_bytes(kHuge); });
  expect_refused("manifest: state.size_bytes",
                 [](Manifest& manifest) { manifest.mutable_state()->set_size_bytes(kHuge); });
  expect_refused("manifest: index.size_bytes",
                 [](Manifest& manifest) { manifest.mutable_index()->set_size_bytes(kHuge); });
  expect_refused("manifest: guest.working_set_bytes", [](Manifest& manifest) {
    manifest.mutable_guest()->set_working_set_bytes(kHuge);
  });
}

// Claims within the format's limits, which the files bear out.
TEST_F(ClaimTest, AStateOrAnIndexOfATebibyteIsRefusedBeforeItIsRead) {
  constexpr std::uint64_t kTiB = std::uint64_t{1} << 40;
  for (const char* name : {kStateFile, kIndexFile}) {
    const std::vector<std::byte> before = read_file(path(name));
    Manifest manifest = must(OpenedSnapshot::open(store(), named("small"))).manifest();
    const std::vector<std::byte> manifest_before = read_file(path(kManifestFile));
    (name == kStateFile ? manifest.mutable_state() : manifest.mutable_index())
        ->set_size_bytes(kTiB);
    make_sparse(name, kTiB);
    write_file(path(kManifestFile), formats::encode(manifest));
    const Error error = must_fail(open());
    EXPECT_EQ(error.code, Code::kCorrupt);
    EXPECT_TRUE(contains(error.context, std::string("manifest: ") + name + ".size_bytes"))
        << error.context;
    write_file(path(name), before);
    write_file(path(kManifestFile), manifest_before);
  }
}

TEST_F(ClaimTest, AMemoryThatIsLargerThanItsFileIsRefused) {
  expect_refused("memory: size", [](Manifest& manifest) {
    formats::v1::Memory& memory = *manifest.mutable_memory();
    memory.mutable_regions(0)->set_size_bytes(formats::kMaxMemoryBytes);
  });
}

TEST_F(ClaimTest, AManifestFileOfATebibyteIsRefusedBeforeItIsRead) {
  make_sparse(kManifestFile, std::uint64_t{1} << 40);
  const Error error = must_fail(open());
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, "manifest: ")) << error.context;
}

}  // namespace
}  // namespace volt::test
