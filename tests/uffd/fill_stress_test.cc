// Rule 1 of a shared image: filled in a way that shows no clone an empty or half-filled page, even
// when the bytes come from a file mapping whose pages vanish and come back meanwhile. (memcpy into
// a shared mapping, or pwrite(), fail this.)
#include <unistd.h>

#include "tests/uffd/uffd_fixture.h"
#include "vmm/os/file.h"

namespace volt::uffd {
namespace {

using FillStressTest = UffdTest;

// The whole image as a file, mapped and not read yet.
struct ImageFile {
  ImageFile() {
    for (std::uint64_t unit = 0; unit < kUnits; ++unit) {
      EXPECT_TRUE(write_all(file, unit_bytes(unit), unit * kUnit, "image file"));
    }
  }
  std::span<const std::byte> unit(std::uint64_t which) const {
    return map().bytes().subspan(which * kUnit, kUnit);
  }
  const Mapping& map() const { return map_; }

  Fd file{::memfd_create("image-file", MFD_CLOEXEC)};

 private:
  Mapping map_ = make();
  Mapping make() const {
    EXPECT_EQ(::ftruncate(file.get(), kUnits * kUnit), 0);
    return Mapping::create(kUnits * kUnit, PROT_READ, MAP_PRIVATE, file.get(), 0, "image file")
        .value();
  }
};

TEST_F(FillStressTest, NoReaderEverSeesAnEmptyOrPartialPage) {
  const ImageFile file;
  std::atomic<bool> done = false;
  std::thread dropper([&] {
    while (!done) ::madvise(file.map().data(), file.map().size(), MADV_DONTNEED);
  });
  for (int round = 0; round < 8; ++round) {
    const auto server = serve(std::make_unique<DirectSource>(
        [&](std::uint64_t unit, UnitSink& sink) { sink.filled(unit, file.unit(unit)); }));
    std::vector<std::unique_ptr<Clone>> clones;
    for (int i = 0; i < 4; ++i) clones.push_back(std::make_unique<Clone>(*server));
    std::atomic<std::uint64_t> wrong = 0;
    std::vector<std::thread> readers;
    for (std::uint64_t i = 0; i < 8; ++i) {
      // Pairs begin at the same page, so that they look at units which are just being filled.
      readers.emplace_back([&, i] { wrong += wrong_words(*clones[i % 4], i / 2 * 31); });
    }
    for (std::thread& reader : readers) reader.join();
    EXPECT_EQ(wrong, 0u);
    EXPECT_FALSE(server->failure());
    EXPECT_EQ(server->counts().units_filled, kUnits);
  }
  done = true;
  dropper.join();
}

}  // namespace
}  // namespace volt::uffd
