#include "vmm/pc/console.h"

#include <gtest/gtest.h>
#include <poll.h>

#include <string_view>

namespace volt::pc {
namespace {

void put(Console& console, std::string_view text) {
  for (const char c : text) console.put(static_cast<std::byte>(c));
}

bool readable(const Console& console) {
  pollfd event = {console.event().get(), POLLIN, 0};
  return ::poll(&event, 1, 0) == 1;
}

TEST(ConsoleTest, LastLinesAreWithoutControlCharacters) {
  const auto console = Console::create(false).value();
  put(*console, "one\r\n\n\x1b[31mtwo\x07\nthree");
  EXPECT_EQ(console->last_lines(2), (std::vector<std::string>{"[31mtwo", "three"}));
  EXPECT_EQ(console->last_lines(9).size(), 3u);
  EXPECT_FALSE(readable(*console)) << "nobody wants to see it";
  EXPECT_EQ(console->take(), "");
}

TEST(ConsoleTest, WhatIsShownWaitsToBeTaken) {
  const auto console = Console::create(true).value();
  EXPECT_FALSE(readable(*console));
  put(*console, "hello\r\n");
  EXPECT_TRUE(readable(*console));
  EXPECT_EQ(console->take(), "hello\r\n");
  EXPECT_FALSE(readable(*console));
}

TEST(ConsoleTest, KeepsOnlySoMuch) {
  const auto console = Console::create(true).value();
  put(*console, "first\n");
  for (std::size_t i = 0; i < Console::kMaxUnseen; ++i) console->put(std::byte{'x'});
  EXPECT_EQ(console->lost(), 6u);
  EXPECT_EQ(console->take().size(), Console::kMaxUnseen);
  EXPECT_EQ(console->last_lines(9), (std::vector<std::string>{std::string(Console::kKept, 'x')}));
}

TEST(ConsoleTest, FindsThePanic) {
  const auto console = Console::create(false).value();
  EXPECT_EQ(console->panic(), "");
  put(*console, "[ 1.5] fine\n[ 2.0] Kernel panic - not syncing: no init\r\n[ 2.1] more\n");
  EXPECT_EQ(console->panic(), "Kernel panic - not syncing: no init");
}

}  // namespace
}  // namespace volt::pc
