// Reads under way while their caller goes on: both engines give the same bytes and errors.
#include "vmm/os/async_reader.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <mutex>

#include "vmm/os/fd.h"
#include "vmm/os/file.h"

namespace volt {
namespace {

constexpr std::size_t kBlock = 4096;
constexpr std::size_t kBlocks = 64;
constexpr unsigned kDepth = 16;

class AsyncReaderTest : public testing::TestWithParam<AsyncReader::Engine> {
 protected:
  AsyncReaderTest() : pool_(kDepth * kBlock) {
    char path[] = "/tmp/volt-test-XXXXXX";
    file_ = Fd{::mkstemp(path)};
    ::unlink(path);
    for (std::size_t i = 0; i < kBlocks * kBlock; ++i) {
      content_.push_back(static_cast<std::byte>(i / kBlock + i % 251));
    }
    EXPECT_TRUE(write_all(file_, content_, 0, "file"));
  }
  std::unique_ptr<AsyncReader> start() {
    const int files[] = {file_.get()};
    auto made = AsyncReader::create(
        GetParam(), files, pool_, kDepth, [this](std::uint64_t cookie, Result<std::size_t> got) {
          const std::lock_guard lock(mutex_);
          EXPECT_TRUE(answers_.emplace(cookie, std::move(got)).second) << "answered twice";
        });
    EXPECT_TRUE(made);
    return *std::move(made);
  }
  std::span<std::byte> slot(std::size_t i) {
    return std::span(pool_).subspan(i % kDepth * kBlock, kBlock);
  }

  Fd file_;
  std::vector<std::byte> content_;
  std::vector<std::byte> pool_;
  std::mutex mutex_;
  std::map<std::uint64_t, Result<std::size_t>> answers_;
};

INSTANTIATE_TEST_SUITE_P(EveryEngine, AsyncReaderTest,
                         testing::Values(AsyncReader::Engine::kIoUring,
                                         AsyncReader::Engine::kThreads),
                         [](const auto& engine) { return std::string(engine_name(engine.param)); });

// Destroying the reader waits for the answers.
TEST_P(AsyncReaderTest, EveryRequestIsAnsweredOnceWithItsBytes) {
  for (std::size_t first = 0; first < kBlocks; first += kDepth) {
    {
      const auto reader = start();
      for (std::size_t i = first; i < first + kDepth; ++i) {
        ASSERT_TRUE(reader->submit({0, i * kBlock, slot(i), i}));
      }
    }
    ASSERT_EQ(answers_.size(), first + kDepth);
    for (std::size_t i = first; i < first + kDepth; ++i) {
      ASSERT_TRUE(answers_.at(i)) << answers_.at(i).error().context;
      EXPECT_EQ(*answers_.at(i), kBlock);
      EXPECT_EQ(std::memcmp(slot(i).data(), content_.data() + i * kBlock, kBlock), 0) << i;
    }
  }
}

TEST_P(AsyncReaderTest, AReadPastTheEndIsShortAndOneOfNoFileFails) {
  {
    const auto reader = start();
    ASSERT_TRUE(reader->submit({0, kBlocks * kBlock - 100, slot(0), 1}));
    ASSERT_TRUE(reader->submit({0, kBlocks * kBlock + 100, slot(1), 2}));
  }
  EXPECT_EQ(answers_.at(1).value(), 100U);
  EXPECT_EQ(answers_.at(2).value(), 0U);
  answers_.clear();
  file_ = Fd{::open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  {
    const auto reader = start();
    ASSERT_TRUE(reader->submit({0, 0, slot(0), 3}));
  }
  ASSERT_FALSE(answers_.at(3));
  EXPECT_EQ(answers_.at(3).error().sys_errno, EISDIR);
}

TEST_P(AsyncReaderTest, OneThatWasNeverAskedEndsAtOnce) {
  start();
  EXPECT_TRUE(answers_.empty());
}

}  // namespace
}  // namespace volt
