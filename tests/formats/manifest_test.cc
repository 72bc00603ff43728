#include "formats/manifest.h"

#include <gtest/gtest.h>

#include "tests/formats/samples.h"

namespace volt::formats {
namespace {

Result<> read(std::span<const std::byte> file) {
  VOLT_TRY(decode_manifest(file));
  return {};
}

struct Violation {
  const char* expected;  // how the error begins, "manifest: " left out
  std::function<void(Manifest&)> commit;
};

void expect_each_refused(std::span<const Violation> violations) {
  for (const Violation& violation : violations) {
    Manifest manifest = sample_manifest();
    violation.commit(manifest);
    const Result<> good = read(sealed_as(FileKind::kManifest, manifest));
    ASSERT_FALSE(good) << violation.expected;
    EXPECT_EQ(good.error().code, Code::kCorrupt) << violation.expected;
    EXPECT_EQ(good.error().context, std::string("manifest: ") + violation.expected);
    const Result<> checked = check(manifest);
    ASSERT_FALSE(checked) << violation.expected;
    EXPECT_TRUE(checked.error().context.starts_with("manifest: "));
  }
}

std::string text(std::size_t bytes) {
  return std::string(bytes, 'x');
}

constexpr std::uint64_t kHuge = std::uint64_t{1} << 60;

TEST(ManifestTest, ComesBackAsItWas) {
  const Bytes file = encode(sample_manifest());
  const Result<Manifest> manifest = decode_manifest(file);
  ASSERT_TRUE(manifest) << manifest.error().context;
  EXPECT_EQ(manifest->SerializeAsString(), sample_manifest().SerializeAsString());
  EXPECT_EQ(encode(*manifest), file);
}

TEST(ManifestTest, GoldenFileStaysReadable) {
  const Bytes file = golden("v1_manifest.bin");
  const Result<Manifest> manifest = decode_manifest(file);
  ASSERT_TRUE(manifest) << manifest.error().context;
  EXPECT_EQ(manifest->created_by(), "volt 0.1.0");
  EXPECT_EQ(manifest->guest().working_set_checksum(), 0xFEDC'BA98'7654'3210);
  EXPECT_EQ(manifest->guest().calls(1), "get 1");
  EXPECT_EQ(manifest->memory().regions(1).guest_base(), 0x1'0000'0000);
  EXPECT_EQ(manifest->memory().data(2).file_offset(), 48 * kMiB - kDefaultUnitBytes);
  EXPECT_EQ(manifest->memory().stored_bytes(), 130 * kDefaultUnitBytes);
  EXPECT_EQ(manifest->index().size_bytes(), 4272);
  EXPECT_EQ(manifest->compatibility().msrs(1), 0xC000'0080);
  EXPECT_TRUE(manifest->compatibility().exact_state());
  EXPECT_EQ(manifest->labels(1).key(), "env.stage");
  EXPECT_EQ(manifest->boot_us(), 81'234);
  EXPECT_EQ(encode(sample_manifest()), file);
}

TEST(ManifestTest, EveryTruncationIsCorrupt) {
  expect_every_truncation_refused(encode(sample_manifest()), read);
}

TEST(ManifestTest, EveryBitFlipIsRefused) {
  expect_every_bit_flip_refused(encode(sample_manifest()), "manifest", read);
}

TEST(ManifestTest, UnknownRequiredFeatureIsUnsupportedAndNamed) {
  Manifest manifest = sample_manifest();
  manifest.add_required_features("packed-memory");
  manifest.mutable_memory()->set_unit_bytes(3);  // what else is strange does not matter then
  const Result<> good = read(sealed_as(FileKind::kManifest, manifest));
  ASSERT_FALSE(good);
  EXPECT_EQ(good.error().code, Code::kUnsupported);
  EXPECT_EQ(good.error().context,
            "manifest: required_features[0]: packed-memory, which this build lacks");
}

TEST(ManifestTest, FieldsOfALaterMinorAreCarriedAlong) {
  std::string body = sample_manifest().SerializeAsString();
  body += "\xC2\x3E\x05later";  // field 1000, five bytes
  const Bytes file = seal(FileKind::kManifest, bytes_of(body));
  const Result<Manifest> manifest = decode_manifest(file);
  ASSERT_TRUE(manifest) << manifest.error().context;
  EXPECT_EQ(manifest->created_by(), "volt 0.1.0");
  EXPECT_EQ(encode(*manifest), file);
}

TEST(ManifestTest, TopLevelRules) {
  const Violation violations[] = {
      {"required_features[0]: not 1 to 63 of [a-z0-9._-]",
       [](Manifest& m) { m.add_required_features("\x1b[2J"); }},
      {"required_features: more than 64",
       [](Manifest& m) {
         for (int i = 0; i < 65; ++i) m.add_required_features("f");
       }},
      {"created_by: too long", [](Manifest& m) { m.set_created_by(text(4097)); }},
      {"guest: missing", [](Manifest& m) { m.clear_guest(); }},
      {"memory: missing", [](Manifest& m) { m.clear_memory(); }},
      {"state: missing", [](Manifest& m) { m.clear_state(); }},
      {"index: missing", [](Manifest& m) { m.clear_index(); }},
      {"compatibility: missing", [](Manifest& m) { m.clear_compatibility(); }},
      {"state.size_bytes: zero", [](Manifest& m) { m.mutable_state()->set_size_bytes(0); }},
      {"index.size_bytes: 1099511627777, at most 1099511627776",
       [](Manifest& m) { m.mutable_index()->set_size_bytes((std::uint64_t{1} << 40) + 1); }},
      {"state.sha256: 31 bytes, not 32",
       [](Manifest& m) { m.mutable_state()->set_sha256(text(31)); }},
      {"index.sha256: 0 bytes, not 32", [](Manifest& m) { m.mutable_index()->clear_sha256(); }},
      {"parent: 16 bytes, not 32", [](Manifest& m) { m.set_parent(text(16)); }},
      {"labels: more than 64",
       [](Manifest& m) {
         while (m.labels_size() < 65) m.add_labels();
       }},
      {"labels[0].key: not 1 to 63 of [a-z0-9._-]",
       [](Manifest& m) { m.mutable_labels(0)->set_key(""); }},
      {"labels[0].key: not 1 to 63 of [a-z0-9._-]",
       [](Manifest& m) { m.mutable_labels(0)->set_key(text(64)); }},
      {"labels[1].key: not 1 to 63 of [a-z0-9._-]",
       [](Manifest& m) { m.mutable_labels(1)->set_key("Stage"); }},
      {"labels[1].key: not above the one before",
       [](Manifest& m) { m.mutable_labels(1)->set_key("app"); }},
      {"labels[1].value: too long", [](Manifest& m) { m.mutable_labels(1)->set_value(text(256)); }},
      {"body: not an encoded message", [](Manifest& m) { m.set_created_by("\xFF"); }},
  };
  expect_each_refused(violations);
}

TEST(ManifestTest, GuestRules) {
  const auto guest = [](auto change) {
    return [change](Manifest& m) { change(*m.mutable_guest()); };
  };
  const Violation violations[] = {
      {"guest.kind: empty", guest([](v1::Guest& g) { g.clear_kind(); })},
      {"guest.kind: too long", guest([](v1::Guest& g) { g.set_kind(text(4097)); })},
      {"guest.image_sha256: 33 bytes, not 32",
       guest([](v1::Guest& g) { g.set_image_sha256(text(33)); })},
      {"guest.workload: too long", guest([](v1::Guest& g) { g.set_workload(text(4097)); })},
      {"guest.working_set_bytes: more than the memory",
       guest([](v1::Guest& g) { g.set_working_set_bytes(kHuge); })},
      {"guest.working_set_base: the range ends beyond 2^52",
       guest([](v1::Guest& g) { g.set_working_set_base(~std::uint64_t{0}); })},
      {"guest.mutable_bytes: more than the memory",
       guest([](v1::Guest& g) { g.set_mutable_bytes(48 * kMiB + 1); })},
      {"guest.mutable_base: the range ends beyond 2^52",
       guest([](v1::Guest& g) { g.set_mutable_base(std::uint64_t{1} << 52); })},
      {"guest.calls: more than 1024", guest([](v1::Guest& g) {
         while (g.calls_size() < 1025) g.add_calls("");
       })},
      {"guest.calls[2]: too long", guest([](v1::Guest& g) { g.add_calls(text(4097)); })},
      {"guest.generation: 15 bytes, not 16",
       guest([](v1::Guest& g) { g.set_generation(text(15)); })},
  };
  expect_each_refused(violations);
}

// A violation of the memory part.
Violation memory(const char* expected, std::function<void(v1::Memory&)> change) {
  return {expected, [change = std::move(change)](Manifest& m) { change(*m.mutable_memory()); }};
}

TEST(ManifestTest, MemoryRules) {
  const char* unit = "memory.unit_bytes: 0, not a power of two from 4 KiB to 2 MiB";
  const char* small = "memory.unit_bytes: 2048, not a power of two from 4 KiB to 2 MiB";
  const char* large = "memory.unit_bytes: 4194304, not a power of two from 4 KiB to 2 MiB";
  const char* odd = "memory.unit_bytes: 65537, not a power of two from 4 KiB to 2 MiB";
  const Violation violations[] = {
      memory(unit, [](v1::Memory& m) { m.set_unit_bytes(0); }),
      memory(small, [](v1::Memory& m) { m.set_unit_bytes(2048); }),
      memory(large, [](v1::Memory& m) { m.set_unit_bytes(4 * kMiB); }),
      memory(odd, [](v1::Memory& m) { m.set_unit_bytes(65537); }),
      memory("memory.stored_bytes: not a multiple of unit_bytes",
             [](v1::Memory& m) { m.set_stored_bytes(4096); }),
      memory("memory.stored_bytes: more than is in data",
             [](v1::Memory& m) { m.set_stored_bytes(16 * kMiB + 2 * kDefaultUnitBytes); }),
      memory("memory.digest: 31 bytes, not 32", [](v1::Memory& m) { m.set_digest(text(31)); }),
  };
  expect_each_refused(violations);
}

TEST(ManifestTest, RegionRules) {
  const auto region = [](const char* expected, int i, std::function<void(v1::Region&)> change) {
    return memory(expected, [i, change = std::move(change)](v1::Memory& m) {
      change(*m.mutable_regions(i));
    });
  };
  const Violation violations[] = {
      memory("memory.regions: none", [](v1::Memory& m) { m.clear_regions(); }),
      memory("memory.regions: more than 64",
             [](v1::Memory& m) {
               while (m.regions_size() < 65) m.add_regions();
             }),
      region("memory.regions[0].guest_base: not a multiple of unit_bytes", 0,
             [](v1::Region& r) { r.set_guest_base(4096); }),
      region("memory.regions[0].size_bytes: zero", 0, [](v1::Region& r) { r.set_size_bytes(0); }),
      region("memory.regions[1].size_bytes: not a multiple of unit_bytes", 1,
             [](v1::Region& r) { r.set_size_bytes(4096); }),
      region("memory.regions[0].size_bytes: more than 64 TiB of memory", 0,
             [](v1::Region& r) { r.set_size_bytes(kHuge); }),
      region("memory.regions[1].size_bytes: more than 64 TiB of memory", 1,
             [](v1::Region& r) { r.set_size_bytes(kMaxMemoryBytes); }),
      region("memory.regions[1].guest_base: the region ends beyond 2^52", 1,
             [](v1::Region& r) { r.set_guest_base(0 - kDefaultUnitBytes); }),
      region("memory.regions[1].guest_base: overlaps the region before", 1,
             [](v1::Region& r) { r.set_guest_base(32 * kMiB - kDefaultUnitBytes); }),
      memory("memory.regions[1].guest_base: below the region before",
             [](v1::Memory& m) {
               m.mutable_regions(0)->set_guest_base(64 * kMiB);
               m.mutable_regions(1)->set_guest_base(0);
             }),
      region("memory.regions[0].file_offset: 65536, the region begins at 0", 0,
             [](v1::Region& r) { r.set_file_offset(kDefaultUnitBytes); }),
      region("memory.regions[1].file_offset: 0, the region begins at 33554432", 1,
             [](v1::Region& r) { r.set_file_offset(0); }),
  };
  expect_each_refused(violations);
}

TEST(ManifestTest, ExtentRules) {
  const auto extent = [](const char* expected, std::uint64_t offset, std::uint64_t size) {
    return memory(expected, [=](v1::Memory& m) {
      m.mutable_data(2)->set_file_offset(offset);
      m.mutable_data(2)->set_size_bytes(size);
    });
  };
  const std::uint64_t unit = kDefaultUnitBytes;
  const Violation violations[] = {
      memory("memory.data: more than 72",
             [](v1::Memory& m) {
               while (m.data_size() < 73) m.add_data();
             }),
      memory("memory.data: 11, at most 10",
             [](v1::Memory& m) {
               while (m.data_size() < 11) m.add_data();
             }),
      extent("memory.data[2].file_offset: not a multiple of unit_bytes", 44 * kMiB + 1, unit),
      extent("memory.data[2].size_bytes: zero", 44 * kMiB, 0),
      extent("memory.data[2].size_bytes: not a multiple of unit_bytes", 44 * kMiB, 4096),
      extent("memory.data[2].file_offset: beyond the memory file", 48 * kMiB, unit),
      extent("memory.data[2].file_offset: beyond the memory file", kHuge, unit),
      extent("memory.data[2].size_bytes: ends beyond the memory file", 44 * kMiB, 5 * kMiB),
      extent("memory.data[2].size_bytes: ends beyond the memory file", 44 * kMiB, 0 - unit),
      extent("memory.data[2].file_offset: not behind the extent before", 39 * kMiB, unit),
      extent("memory.data[2].file_offset: not behind the extent before", 0, unit),
      extent("memory.data[2].file_offset: touches the extent before", 40 * kMiB, unit),
      extent("memory.data: leaves out a gap of less than 2 MiB", 41 * kMiB, 7 * kMiB),
      extent("memory.data: leaves out a gap of less than 2 MiB", 44 * kMiB, 3 * kMiB),
      memory("memory.data[0].size_bytes: reaches into the next region",
             [](v1::Memory& m) { m.mutable_data(0)->set_size_bytes(16 * kMiB); }),
      memory("memory.data: leaves out more than 8 gaps",
             [](v1::Memory& m) {
               m.clear_data();
               for (std::uint64_t i = 0; i < 9; ++i) add_extent(m, (4 * i + 2) * kMiB, 2 * kMiB);
             }),
  };
  expect_each_refused(violations);
}

TEST(ManifestTest, MemoryWithoutDataIsFine) {
  Manifest manifest = sample_manifest();
  manifest.mutable_memory()->clear_data();
  manifest.mutable_memory()->set_stored_bytes(0);
  EXPECT_TRUE(check(manifest)) << check(manifest).error().context;
}

TEST(ManifestTest, EightGapsAreFine) {
  Manifest manifest = sample_manifest();
  v1::Memory& memory = *manifest.mutable_memory();
  memory.clear_data();
  for (std::uint64_t i = 0; i < 8; ++i) add_extent(memory, (4 * i + 2) * kMiB, 2 * kMiB);
  add_extent(memory, 32 * kMiB, 16 * kMiB);
  EXPECT_TRUE(check(manifest)) << check(manifest).error().context;
}

TEST(ManifestTest, CompatibilityRules) {
  const auto needs = [](const char* expected, std::function<void(v1::Compatibility&)> change) {
    return Violation{expected, [change = std::move(change)](Manifest& m) {
                       change(*m.mutable_compatibility());
                     }};
  };
  const Violation violations[] = {
      needs("compatibility.kvm_vendor: empty", [](v1::Compatibility& c) { c.clear_kvm_vendor(); }),
      needs("compatibility.cpu_vendor: too long",
            [](v1::Compatibility& c) { c.set_cpu_vendor(text(4097)); }),
      needs("compatibility.kernel_release: too long",
            [](v1::Compatibility& c) { c.set_kernel_release(text(4097)); }),
      needs("compatibility.cpu_features: more than 1024",
            [](v1::Compatibility& c) {
              while (c.cpu_features_size() < 1025) c.add_cpu_features("x");
            }),
      needs("compatibility.cpu_features[1]: not above the one before",
            [](v1::Compatibility& c) { c.set_cpu_features(1, std::string("avx")); }),
      needs("compatibility.cpu_features[0]: empty",
            [](v1::Compatibility& c) { c.mutable_cpu_features(0)->clear(); }),
      needs("compatibility.kvm_capabilities[1]: not above the one before",
            [](v1::Compatibility& c) { c.set_kvm_capabilities(1, 3); }),
      needs("compatibility.kvm_capabilities: 1025, at most 1024",
            [](v1::Compatibility& c) { c.mutable_kvm_capabilities()->Resize(1025, 0); }),
      needs("compatibility.msrs[1]: not above the one before",
            [](v1::Compatibility& c) { c.set_msrs(1, 1); }),
      needs("compatibility.msrs: 1025, at most 1024",
            [](v1::Compatibility& c) { c.mutable_msrs()->Resize(1025, 0); }),
  };
  expect_each_refused(violations);
}

TEST(ManifestTest, CheckRefusesTextThatIsNotUtf8BeforeItIsWritten) {
  Manifest manifest = sample_manifest();
  manifest.mutable_guest()->set_workload("\xC3");
  EXPECT_EQ(check(manifest).error().context, "manifest: guest.workload: not UTF-8");
}

TEST(ManifestDeathTest, EncodingWhatBreaksTheRulesIsTheCallersBug) {
  Manifest manifest = sample_manifest();
  manifest.mutable_guest()->clear_kind();
  EXPECT_DEATH(encode(manifest), "manifest: guest.kind: empty");
}

}  // namespace
}  // namespace volt::formats
