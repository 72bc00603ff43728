#include "vmm/os/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cerrno>

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

}  // namespace
}  // namespace volt
