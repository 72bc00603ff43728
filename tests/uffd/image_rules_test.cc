// What happens to an image when its first rule is broken on purpose: each wrong way of filling it
// shows a page that is not filled yet, and these tests see it; the right way never does. The source
// of the copy stops half-way, for as long as the test looks.
#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include "tests/uffd/uffd_fixture.h"
#include "vmm/os/file.h"

namespace volt::uffd {
namespace {

using Wake = Userfaultfd::Wake;

// A page of bytes, its first half there and its second half on a page that is missing until the
// test says otherwise.
class HalfSource {
 public:
  HalfSource()
      : map_(Mapping::create(2 * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0,
                             "source")
                 .value()),
        uffd_(Userfaultfd::open().value()) {
    const auto head = content().first(kPage / 2);
    std::ranges::copy(head, map_.data() + kPage / 2);
    EXPECT_TRUE(uffd_.register_missing(map_.bytes().subspan(kPage)));
  }
  std::span<const std::byte> bytes() const { return map_.bytes().subspan(kPage / 2, kPage); }
  static std::span<const std::byte> content() {
    static const std::vector<std::byte> page = unit_bytes(1);
    return std::span(page).first(kPage);
  }

  // Until somebody stands before the second half.
  void await_reader() const {
    pollfd polled = {.fd = uffd_.fd(), .events = POLLIN, .revents = 0};
    EXPECT_EQ(::poll(&polled, 1, -1), 1);
  }
  void let_go() {
    std::vector<std::byte> rest(kPage);
    std::ranges::copy(content().last(kPage / 2), rest.begin());
    EXPECT_TRUE(uffd_.copy(map_.data() + kPage, rest, Wake::kYes));
  }

 private:
  Mapping map_;
  Userfaultfd uffd_;
};

// Whether a mapping of the file would find its first page without any fault message.
bool visible(int fd) {
  const Mapping map = Mapping::create(kPage, PROT_READ, MAP_SHARED, fd, 0, "look").value();
  unsigned char there = 0;
  EXPECT_EQ(::mincore(map.data(), kPage, &there), 0);
  return (there & 1) != 0;
}

// Whether the page could be seen before it was whole.
template <typename Fill>
bool seen_half_filled(int fd, Fill fill) {
  HalfSource source;
  std::thread filler([&] { fill(source.bytes()); });
  source.await_reader();
  const bool seen = visible(fd);
  source.let_go();
  filler.join();
  const Mapping map = Mapping::create(kPage, PROT_READ, MAP_SHARED, fd, 0, "look").value();
  EXPECT_TRUE(std::ranges::equal(map.bytes(), HalfSource::content()));
  return seen;
}

using ImageRulesTest = UffdTest;

TEST_F(ImageRulesTest, APageThatIsBeingFilledIsNotSeen) {
  SharedImage image = SharedImage::create(kPage, kPage).value();
  EXPECT_FALSE(seen_half_filled(
      image.fd(), [&](std::span<const std::byte> bytes) { EXPECT_TRUE(image.fill(0, bytes)); }));
}

TEST_F(ImageRulesTest, FilledByMemcpyItWouldBe) {
  const Fd file{::memfd_create("image", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), kPage), 0);
  const Mapping map =
      Mapping::create(kPage, PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0, "image").value();
  EXPECT_TRUE(seen_half_filled(file.get(), [&](std::span<const std::byte> bytes) {
    std::memcpy(map.data(), bytes.data(), bytes.size());
  }));
}

TEST_F(ImageRulesTest, FilledByPwriteItWouldBe) {
  const Fd file{::memfd_create("image", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(file.get(), kPage), 0);
  const bool seen = seen_half_filled(file.get(), [&](std::span<const std::byte> bytes) {
    EXPECT_TRUE(write_all(file, bytes, 0, "image"));
  });
  if (!seen) GTEST_SKIP() << "this kernel looks at the whole source before it makes the page";
}

// An image without seals can be written by whoever has its descriptor, and cut under every clone.
TEST_F(ImageRulesTest, EverySealIsThereFromTheStart) {
  const SharedImage image = SharedImage::create(kPage, kPage).value();
  constexpr int kFutureWrite = 0x0010;
  EXPECT_EQ(::fcntl(image.fd(), F_GET_SEALS),
            kFutureWrite | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL);
}

}  // namespace
}  // namespace volt::uffd
