// The archive field by field, and what cpio(1) makes of it where there is one.
#include "vmm/initramfs.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <charconv>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>

namespace volt::vmm {
namespace {

using Kind = InitramfsEntry::Kind;
namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text));
}

std::vector<InitramfsEntry> one_of_each() {
  return {{.path = "volt", .kind = Kind::kDirectory, .permissions = 0750},
          {.path = "volt/init", .bytes = bytes_of("hello")},
          {.path = "volt/sh", .kind = Kind::kSymlink, .target = "/bin/busybox"},
          {.path = "volt/console",
           .kind = Kind::kCharDevice,
           .permissions = 0600,
           .major = 5,
           .minor = 1},
          {.path = "volt/empty", .permissions = 0444}};
}

// One entry as its bytes say it.
struct Read {
  std::string path, content;
  std::vector<std::uint32_t> fields;
};

Read read_entry(std::string_view archive, std::size_t& at) {
  Read entry;
  EXPECT_EQ(archive.substr(at, 6), "070701");
  for (std::size_t i = 0; i < 13; ++i) {
    const std::string_view digits = archive.substr(at + 6 + i * 8, 8);
    std::uint32_t value = 0;
    const auto end = std::from_chars(digits.begin(), digits.end(), value, 16).ptr;
    EXPECT_EQ(end, digits.end());
    entry.fields.push_back(value);
  }
  at += 110;
  EXPECT_EQ(archive[at + entry.fields[11] - 1], '\0');
  entry.path = archive.substr(at, entry.fields[11] - 1);
  at = (at + entry.fields[11] + 3) / 4 * 4;
  entry.content = archive.substr(at, entry.fields[6]);
  at = (at + entry.fields[6] + 3) / 4 * 4;
  return entry;
}

std::vector<Read> read_all(std::span<const std::byte> bytes) {
  const std::string_view archive(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::vector<Read> entries;
  std::size_t at = 0;
  while (at < archive.size() && !testing::Test::HasFailure())
    entries.push_back(read_entry(archive, at));
  EXPECT_EQ(at, archive.size());
  return entries;
}

TEST(InitramfsTest, EveryFieldIsWhereTheKernelLooksForIt) {
  const auto bytes = encode_initramfs(one_of_each());
  ASSERT_TRUE(bytes) << bytes.error().context;
  EXPECT_EQ(bytes->size() % 4, 0U);
  const std::vector<Read> entries = read_all(*bytes);
  ASSERT_EQ(entries.size(), 6U);
  const std::uint32_t modes[] = {S_IFDIR | 0750, S_IFREG | 0755, S_IFLNK | 0777,
                                 S_IFCHR | 0600, S_IFREG | 0444, 0};
  for (std::uint32_t i = 0; i < 6; ++i) {
    EXPECT_EQ(entries[i].fields[0], i < 5 ? i + 1 : 0) << "inode";
    EXPECT_EQ(entries[i].fields[1], modes[i]);
    EXPECT_EQ(entries[i].fields[5], 0U) << "the time is no host's";
  }
  EXPECT_EQ(entries[1].path, "volt/init");
  EXPECT_EQ(entries[1].content, "hello");
  EXPECT_EQ(entries[2].content, "/bin/busybox");
  EXPECT_EQ(entries[3].fields[9], 5U);
  EXPECT_EQ(entries[3].fields[10], 1U);
  EXPECT_EQ(entries[4].content, "");
  EXPECT_EQ(entries[5].path, "TRAILER!!!");
}

TEST(InitramfsTest, TheSameEntriesAreTheSameBytes) {
  EXPECT_EQ(*encode_initramfs(one_of_each()), *encode_initramfs(one_of_each()));
}

TEST(InitramfsTest, EveryLengthOfNameAndContentIsPadded) {
  const std::string letters = "abcdefgh";
  for (std::size_t n = 1; n <= 8; ++n) {
    const std::string part = letters.substr(0, n);
    const InitramfsEntry entries[] = {{.path = part, .bytes = bytes_of(part)},
                                      {.path = "next", .bytes = bytes_of("x")}};
    const std::vector<Read> read = read_all(*encode_initramfs(entries));
    ASSERT_EQ(read.size(), 3U);
    EXPECT_EQ(read[0].content, part);
    EXPECT_EQ(read[1].path, "next");
  }
}

TEST(InitramfsTest, WhatNoKernelCouldUnpackIsRefused) {
  const InitramfsEntry wrong[] = {{.path = ""},
                                  {.path = "/volt"},
                                  {.path = "volt/"},
                                  {.path = "volt//init"},
                                  {.path = "volt/../etc/shadow"},
                                  {.path = "./volt"},
                                  {.path = std::string("a\0b", 3)},
                                  {.path = std::string(256, 'a')},
                                  {.path = "TRAILER!!!"},
                                  {.path = "volt", .permissions = 010000},
                                  {.path = "volt", .kind = Kind::kSymlink}};
  for (const InitramfsEntry& entry : wrong) {
    const auto bytes = encode_initramfs(std::span(&entry, 1));
    ASSERT_FALSE(bytes) << entry.path;
    EXPECT_EQ(bytes.error().code, Code::kInvalid);
  }
}

TEST(InitramfsTest, PaddingMakesTheNextArchiveStartAtAMultipleOfFour) {
  for (std::size_t size = 0; size < 9; ++size) {
    EXPECT_EQ((size + padding_before_initramfs(size)) % 4, 0U);
    EXPECT_LT(padding_before_initramfs(size), 4U);
  }
}

TEST(InitramfsTest, CpioUnpacksWhatWasWritten) {
  if (std::system("command -v cpio >/dev/null 2>&1") != 0) GTEST_SKIP() << "no cpio";
  const fs::path folder = fs::path(testing::TempDir()) / ("initramfs-" + std::to_string(getpid()));
  fs::create_directories(folder);
  std::vector<InitramfsEntry> entries = one_of_each();
  std::erase_if(entries, [](const InitramfsEntry& e) { return e.kind == Kind::kCharDevice; });
  const auto bytes = encode_initramfs(entries);
  ASSERT_TRUE(bytes);
  std::ofstream(folder / "archive", std::ios::binary)
      .write(reinterpret_cast<const char*>(bytes->data()),
             static_cast<std::streamsize>(bytes->size()));
  const std::string command = "cd " + folder.string() +
                              " && cpio -i --quiet < archive && cpio -it --quiet < archive > list";
  ASSERT_EQ(std::system(command.c_str()), 0);
  std::ifstream list(folder / "list"), init(folder / "volt/init");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(list), {}),
            "volt\nvolt/init\nvolt/sh\nvolt/empty\n");
  EXPECT_EQ(std::string(std::istreambuf_iterator<char>(init), {}), "hello");
  EXPECT_EQ(fs::read_symlink(folder / "volt/sh"), "/bin/busybox");
  EXPECT_EQ(fs::status(folder / "volt").permissions(), fs::perms{0750});
  fs::remove_all(folder);
}

}  // namespace
}  // namespace volt::vmm
