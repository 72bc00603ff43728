// Packs: who shares what from them, and what damage to them does.
#include "snapshot/packs.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <algorithm>
#include <cstring>

#include "snapshot/unit_reader.h"
#include "tests/snapshot/child.h"
#include "tests/snapshot/packed.h"

namespace volt::test {
namespace {

using formats::IndexEntry;
using formats::StoredUnit;
using snapshot::kUnitsFile;
using snapshot::load_memory;
using snapshot::LoadedMemory;
using snapshot::OpenedSnapshot;
using snapshot::Packs;

class PacksTest : public SnapshotTest {
 protected:
  OpenedSnapshot open(std::string_view name) const {
    return must(OpenedSnapshot::open(store(), named(name)));
  }
  std::string pack_path(std::size_t number = 0) const {
    return store().packs() + "/" + packs_of(store()).at(number);
  }
};

// A pack with one unit, which its table says has the sum `claimed`.
std::string forge_pack(const Store& store, std::span<const std::byte> unit,
                       const formats::Xxh128& claimed) {
  const formats::PackId id = {std::byte{1}, std::byte{2}};
  std::vector<std::byte> bytes = formats::encode_pack_head(id);
  const auto size = static_cast<std::uint32_t>(unit.size());
  const formats::PackRecord record = {claimed, bytes.size(), size, size};
  bytes.insert(bytes.end(), unit.begin(), unit.end());
  const auto table = formats::encode_pack_table(id, std::span(&record, 1), bytes.size());
  bytes.insert(bytes.end(), table.begin(), table.end());
  must(make_directories(store.packs()));
  const std::string name = snapshot::pack_file_name(id);
  write_file(store.packs() + "/" + name, bytes);
  return name;
}

TEST_F(PacksTest, ASumThatMatchesWithBytesThatDoNotIsNotShared) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const auto mine = random_bytes(kUnitBytes, 1);
  write_memory(*guest, kSpare, mine);
  capture(*guest, "kv");
  const std::string forged =
      forge_pack(store(), random_bytes(kUnitBytes, 2), formats::xxh128(mine));
  EXPECT_EQ(pack(store(), "kv").shared_units, 0U);
  const OpenedSnapshot packed = open("kv");
  for (const auto& container : packed.containers()) EXPECT_NE(container.name, forged);
  expect_ok(verify_everything(store()));

  // The same with the right bytes is shared, so the test above looked at the right thing.
  unpack(store(), "kv");
  const std::string honest = forge_pack(store(), mine, formats::xxh128(mine));
  EXPECT_EQ(pack(store(), "kv").shared_units, 1U);
  expect_ok(verify_everything(store()));
}

TEST_F(PacksTest, APackThatIsDamagedIsNamedAndNotSharedFrom) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const auto mine = random_bytes(kUnitBytes, 1);
  write_memory(*guest, kSpare, mine);
  capture(*guest, "kv");
  const std::string forged = forge_pack(store(), mine, formats::xxh128(mine));
  const std::string path = store().packs() + "/" + forged;
  const auto whole = read_file(path);
  for (const std::uint64_t at : {std::uint64_t{3}, whole.size() - 10, whole.size() - 100}) {
    write_file(path, whole);
    flip_bit(path, at * 8);
    EXPECT_EQ(pack(store(), "kv").shared_units, 0U) << at;
    unpack(store(), "kv");
  }
}

TEST_F(PacksTest, AProcessWithFewDescriptorsPacksIntoAStoreOfTwoHundredPacks) {
  const std::unique_ptr<Sandbox> guest = boot_kv();
  const snapshot::CaptureOptions options = {.storage = snapshot::Storage::kPacked,
                                            .unit_bytes = 4096};
  for (std::uint64_t i = 0; i < 200; ++i) {
    write_memory(*guest, kSpare + i * 4096, random_bytes(4096, static_cast<std::uint32_t>(i)));
    must(snapshot::capture(kvm(), *guest, store(), named("s:" + std::to_string(i)), options));
  }
  EXPECT_EQ(packs_of(store()).size(), 200U);
  write_memory(*guest, kSpare - 4096, random_bytes(4096, 777));
  must(snapshot::capture(kvm(), *guest, store(), named("kv"), {.unit_bytes = 4096}));
  Child child([this] {
    const rlimit few = {.rlim_cur = 64, .rlim_max = 64};
    check(::setrlimit(RLIMIT_NOFILE, &few) == 0, "setrlimit");
    const snapshot::StorageChange packed = pack(store(), "kv");
    check(packed.changed && packed.shared_units > 300, "shared too little");
  });
  EXPECT_EQ(child.failure(), "");
  EXPECT_LE(open("kv").containers().size(), 129U);  // so that it can be opened
  expect_ok(verify_deep(store(), "kv"));
  EXPECT_EQ(scan(*restore("kv", Loader::kCopy)), seeded_scan());
}

// ---- Damage.

class PackDamageTest : public PacksTest {
 protected:
  void SetUp() override {
    PacksTest::SetUp();
    if (IsSkipped() || HasFatalFailure()) return;
    const std::unique_ptr<Sandbox> guest = boot_kv();
    write_memory(*guest, kSpare, text_bytes(kMiB, 1));
    must(snapshot::capture(kvm(), *guest, store(), named("kv"),
                           {.storage = snapshot::Storage::kPacked}));
    captured_ = memory_of(*guest);
    const OpenedSnapshot opened = open("kv");
    for (std::uint64_t i = 0; i < opened.index().entry_count(); ++i) {
      entries_.push_back(must(opened.index().at(i)));
      units_.push_back(must(opened.units().at(i)));
    }
    uffd_works_ = snapshot::uffd_usable().has_value();
  }
  // Every unit, through the loader, is the right one or cannot be had.
  void expect_no_wrong_byte(Loader loader) const {
    auto opened = OpenedSnapshot::open(store(), named("kv"));
    if (!opened) return;
    const auto loaded =
        load_memory(loader, std::make_shared<const OpenedSnapshot>(*std::move(opened)));
    if (!loaded) return;
    std::vector<std::byte> unit(kUnitBytes);
    for (const IndexEntry& entry : entries_) {
      if (!loaded->memory.read(entry.unit * kUnitBytes, unit)) continue;
      ASSERT_EQ(std::memcmp(unit.data(), captured_.data() + entry.place, unit.size()), 0)
          << "unit " << entry.unit << " under " << snapshot::loader_name(loader);
    }
  }
  void expect_found(const std::string& what) const {
    EXPECT_FALSE(verify_everything(store())) << what;
    expect_no_wrong_byte(Loader::kCopy);
    if (uffd_works_) expect_no_wrong_byte(Loader::kUffd);
  }
  bool uffd_works() const { return uffd_works_; }
  const std::vector<IndexEntry>& entries() const { return entries_; }
  const std::vector<StoredUnit>& units() const { return units_; }

 private:
  std::vector<std::byte> captured_;
  std::vector<IndexEntry> entries_;
  std::vector<StoredUnit> units_;
  bool uffd_works_ = false;
};

TEST_F(PackDamageTest, AFlippedBitInAnyUnitIsFoundAndReachesNoGuest) {
  ASSERT_GT(entries().size(), 40U);
  const bool both =
      std::ranges::any_of(units(),
                          [](const StoredUnit& unit) { return unit.stored_bytes < kUnitBytes; }) &&
      std::ranges::any_of(units(),
                          [](const StoredUnit& unit) { return unit.stored_bytes == kUnitBytes; });
  EXPECT_TRUE(both) << "raw units and frames were to be tested";
  for (std::size_t i = 0; i < entries().size(); ++i) {
    const std::uint64_t bit =
        units()[i].offset * 8 + entries()[i].unit * 7'919 % (units()[i].stored_bytes * 8U);
    flip_bit(pack_path(), bit);
    const std::string where = packs_of(store()).at(0) + ": unit " +
                              std::to_string(entries()[i].unit) + " at file offset " +
                              std::to_string(units()[i].offset);
    for (const Error& error :
         {must_fail(verify_deep(store(), "kv")), must_fail(try_restore("kv", Loader::kCopy))}) {
      EXPECT_EQ(error.code, Code::kCorrupt);
      EXPECT_TRUE(contains(error.context, where)) << error.context;
    }
    if (uffd_works()) {
      const LoadedMemory loaded =
          must(load_memory(Loader::kUffd, std::make_shared<const OpenedSnapshot>(open("kv"))));
      std::byte one[1];
      const std::uint64_t address = entries()[i].unit * kUnitBytes;
      EXPECT_EQ(must_fail(loaded.memory.read(address, one)).code, Code::kPageLost);
      ASSERT_TRUE(loaded.pager.server()->failure());
      EXPECT_TRUE(contains(loaded.pager.server()->failure()->context, where))
          << loaded.pager.server()->failure()->context;
    }
    flip_bit(pack_path(), bit);
  }
  expect_ok(verify_everything(store()));
}

TEST_F(PackDamageTest, AFlippedBitAnywhereInTheUnitTableIsFound) {
  const std::string path = file("kv", kUnitsFile);
  const std::uint64_t bytes = std::filesystem::file_size(path);
  for (std::uint64_t byte = 0; byte < bytes && !HasFailure(); ++byte) {
    const std::uint64_t bit = byte * 8 + byte * 5 % 8;
    flip_bit(path, bit);
    if (byte % 16 == 0) {
      expect_found("units: byte " + std::to_string(byte));
    } else {
      EXPECT_FALSE(verify_deep(store(), "kv")) << "units: byte " << byte;
    }
    flip_bit(path, bit);
  }
  expect_ok(verify_everything(store()));
}

TEST_F(PackDamageTest, AFlippedBitAnywhereInAPacksHeadTableOrTailIsFound) {
  const std::uint64_t bytes = std::filesystem::file_size(pack_path());
  std::uint64_t end = 0;
  for (const StoredUnit& unit : units()) end = std::max(end, unit.offset + unit.stored_bytes);
  for (std::uint64_t byte = 0; byte < bytes && !HasFailure(); ++byte) {
    if (byte == formats::kPackHeadBytes) byte = end;
    const std::uint64_t bit = byte * 8 + byte * 5 % 8;
    flip_bit(pack_path(), bit);
    if (byte % 64 == 0) {
      expect_found("pack: byte " + std::to_string(byte));
    } else {
      EXPECT_FALSE(snapshot::verify_packs(store())) << "pack: byte " << byte;
    }
    flip_bit(pack_path(), bit);
  }
  expect_ok(verify_everything(store()));
}

TEST_F(PackDamageTest, EveryTruncationOfUnitsAndPackIsFoundAndReachesNoGuest) {
  for (const std::string& path : {file("kv", kUnitsFile), pack_path()}) {
    const auto whole = read_file(path);
    const std::uint64_t step = whole.size() > 100'000 ? 40'009 : 1;
    for (std::uint64_t bytes = 0; bytes < whole.size() && !HasFailure(); ++bytes) {
      const bool sampled = bytes % step == 0 || whole.size() - bytes < 100;
      if (!sampled) continue;
      // In place: a pack is one file under two names.
      cut_file(path, bytes);
      expect_found(path + " cut to " + std::to_string(bytes));
      const Fd again = must(open_at(AT_FDCWD, path.c_str(), O_RDWR));
      must(write_all(again, std::span(whole).subspan(bytes), bytes, path));
    }
  }
  expect_ok(verify_everything(store()));
}

TEST_F(PackDamageTest, APackThatIsGoneFromItsSnapshotIsNamed) {
  const std::string linked = file("kv", packs_of(store()).at(0).c_str());
  ASSERT_EQ(::unlink(linked.c_str()), 0);
  const Error error = must_fail(verify_deep(store(), "kv"));
  EXPECT_TRUE(contains(error.context, packs_of(store()).at(0))) << error.context;
}

}  // namespace
}  // namespace volt::test
