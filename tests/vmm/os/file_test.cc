#include "vmm/os/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <csignal>
#include <string>
#include <vector>

namespace volt {
namespace {

Fd memory_file(std::string_view content) {
  Fd fd{::memfd_create("file_test", MFD_CLOEXEC)};
  EXPECT_TRUE(write_all(fd, std::as_bytes(std::span(content)), 0, "memfd"));
  return fd;
}

TEST(FileTest, AMissingFileIsNotFoundAndNamed) {
  const Result<Fd> fd = open_at(AT_FDCWD, "/no/such/file", O_RDONLY);
  ASSERT_FALSE(fd);
  EXPECT_EQ(fd.error().code, Code::kNotFound);
  EXPECT_NE(fd.error().context.find("/no/such/file"), std::string::npos);
}

TEST(FileTest, OpenedFilesAreCloseOnExec) {
  const Fd fd = open_at(AT_FDCWD, "/dev/null", O_RDONLY).value();
  EXPECT_NE(::fcntl(fd.get(), F_GETFD) & FD_CLOEXEC, 0);
}

TEST(FileTest, ReadingPastTheEndSaysWhereTheFileEnds) {
  const Fd fd = memory_file("12345");
  std::byte eight[8];
  const Result<> got = read_exact(fd, eight, 0, "five");
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::kCorrupt);
  EXPECT_EQ(got.error().context, "five: ends at byte 5, 3 bytes too early");
}

TEST(FileTest, AFileBeyondItsLimitIsRefusedBeforeItIsRead) {
  Fd fd{::memfd_create("huge", MFD_CLOEXEC)};
  ASSERT_EQ(::ftruncate(fd.get(), off_t{1} << 40), 0);
  const auto got = read_whole(fd, 1000, "huge");
  ASSERT_FALSE(got);
  EXPECT_EQ(got.error().code, Code::kCorrupt);
}

TEST(FileTest, AFullDiskIsAnErrorThatNamesTheFile) {
  const Fd full = open_at(AT_FDCWD, "/dev/full", O_WRONLY).value();
  const std::byte one[1] = {};
  const Result<> put = write_all(full, one, 0, "memory");
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().sys_errno, ENOSPC);
  EXPECT_NE(put.error().context.find("memory"), std::string::npos);
}

using Parts = std::vector<std::span<const std::byte>>;

// `text` cut into pieces of every length from 0 on.
Parts pieces(std::string_view text) {
  Parts parts;
  for (std::size_t length = 0; !text.empty(); ++length) {
    const std::string_view piece = text.substr(0, length);
    parts.push_back(std::as_bytes(std::span(piece)));
    text.remove_prefix(piece.size());
  }
  return parts;
}

std::string letters(std::size_t count) {
  std::string text;
  for (std::size_t i = 0; i < count; ++i) text += static_cast<char>('a' + i % 23);
  return text;
}

std::string content_of(const Fd& fd, std::size_t bytes) {
  std::string text(bytes, '-');
  EXPECT_TRUE(read_exact(fd, std::as_writable_bytes(std::span(text)), 0, "memfd"));
  return text;
}

TEST(FileTest, ManyPartsComeOneAfterTheOther) {
  const Fd fd = memory_file("12345");
  const std::string text = letters(10'000);
  const Parts parts = pieces(text);
  ASSERT_GT(parts.size(), 128U) << "more than one call takes";
  ASSERT_TRUE(write_all(fd, parts, 5, "memfd"));
  EXPECT_EQ(file_size(fd, "memfd").value(), 10'005U);
  EXPECT_EQ(content_of(fd, 10'005), "12345" + text);
}

// A call that takes less than all of it, since a file may not grow any further.
TEST(FileTest, PartsThatDoNotFitAreWrittenAsFarAsTheyDo) {
  const Fd fd = memory_file("");
  const std::string text = letters(10'000);
  rlimit before;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit narrow = {777, before.rlim_max};
  const auto old_handler = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &narrow), 0);
  const Result<> put = write_all(fd, pieces(text), 0, "memory");
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, old_handler);
  ASSERT_FALSE(put);
  EXPECT_EQ(put.error().sys_errno, EFBIG);
  EXPECT_EQ(content_of(fd, 777), text.substr(0, 777));
}

}  // namespace
}  // namespace volt
