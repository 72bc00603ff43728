// A manifest may be well-formed and still describe memory that no machine of ours can have: it is
// refused before anything is made for it.
#include "tests/snapshot/fixture.h"

namespace volt::test {
namespace {

class LayoutTest : public EveryLoaderTest {
 protected:
  // A snapshot whose manifest says something else about memory.
  template <typename Change>
  Error refusal_of(const Change& change) const {
    capture(*boot_echo(), "odd");
    const std::string path = file("odd", snapshot::kManifestFile);
    formats::Manifest manifest = must(formats::decode_manifest(read_file(path)));
    change(*manifest.mutable_memory());
    write_file(path, formats::encode(manifest));
    return must_fail(try_restore("odd", GetParam()));
  }
};

TEST_P(LayoutTest, ARegionWhereNoRamIsCanNotBeRestored) {
  const Error error =
      refusal_of([](formats::v1::Memory& m) { m.mutable_regions(0)->set_guest_base(kMiB); });
  EXPECT_EQ(error.code, Code::kUnsupported) << error.context;
  EXPECT_TRUE(contains(error.context, "memory.regions")) << error.context;
}

TEST_P(LayoutTest, OneRegionInTwoPiecesCanNotBeRestored) {
  const Error error = refusal_of([](formats::v1::Memory& m) {
    const std::uint64_t whole = m.regions(0).size_bytes();
    m.mutable_regions(0)->set_size_bytes(whole - 2 * kMiB);
    formats::v1::Region& second = *m.add_regions();
    second.set_guest_base(whole - 2 * kMiB);
    second.set_size_bytes(2 * kMiB);
    second.set_file_offset(whole - 2 * kMiB);
  });
  EXPECT_EQ(error.code, Code::kUnsupported) << error.context;
}

TEST_F(SnapshotTest, AForeignDirectoryInTheStoreIsInNobodysWay) {
  std::filesystem::create_directories(store().path() + "/snapshots/not-ours/deeper");
  capture(*boot_echo(), "a");
  capture(*boot_echo(), "b");
  must(store().remove(named("a")));
  health(*restore("b"));
  EXPECT_TRUE(std::filesystem::exists(store().path() + "/snapshots/not-ours/deeper"));
  const std::vector<std::string> strays = must(snapshot::find_strays(store()));
  ASSERT_EQ(strays.size(), 1u);
  EXPECT_TRUE(contains(strays[0], "not-ours"));
}

INSTANTIATE_TEST_SUITE_P(EveryLoader, LayoutTest,
                         testing::Values(Loader::kMap, Loader::kUffd, Loader::kCopy), loader_title);

}  // namespace
}  // namespace volt::test
