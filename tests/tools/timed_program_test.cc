#include "tools/timed_program.h"

#include <gtest/gtest.h>

namespace volt::tools {
namespace {

TimedProgram shell(const std::string& script) {
  return {.path = "/bin/sh", .words = {"sh", "-c", script}, .variables = {"VOLT_TEST=given"}};
}

TEST(TimedProgramTest, TellsWhatItSaidAndHowItEnded) {
  const auto times = time_program(shell("echo \"$VOLT_TEST\"; echo no >&2; exit 7"), {});
  ASSERT_TRUE(times) << times.error().context;
  EXPECT_EQ(times->status, 7);
  EXPECT_EQ(times->out, "given\n");
  EXPECT_EQ(times->err, "no\n");
}

TEST(TimedProgramTest, TheFirstByteIsOfStdoutAndBeforeTheEnd) {
  const auto times = time_program(shell("echo early >&2; echo late"), {});
  ASSERT_TRUE(times) << times.error().context;
  EXPECT_GT(times->first_byte_ns, 0U);
  EXPECT_LE(times->first_byte_ns, times->exit_ns);
  const auto silent = time_program(shell("echo talk >&2"), {});
  ASSERT_TRUE(silent) << silent.error().context;
  EXPECT_EQ(silent->first_byte_ns, 0U);
}

TEST(TimedProgramTest, HasNothingOnStdin) {
  const auto times = time_program(shell("cat; echo end"), {});
  ASSERT_TRUE(times) << times.error().context;
  EXPECT_EQ(times->out, "end\n");
}

TEST(TimedProgramTest, IsKilledAtItsDeadline) {
  const auto times = time_program(shell("exec sleep 1000"), vmm::Deadline::in_ms(50));
  ASSERT_FALSE(times);
  EXPECT_EQ(times.error().code, Code::kDeadline);
}

TEST(TimedProgramTest, OneThatIsKilledSaysByWhat) {
  const auto times = time_program(shell("kill -TERM $$"), {});
  ASSERT_TRUE(times) << times.error().context;
  EXPECT_EQ(times->status, 128 + 15);
}

TEST(TimedProgramTest, ProgramsAreFoundInPath) {
  EXPECT_EQ(find_program("/bin/sh"), "/bin/sh");
  EXPECT_TRUE(find_program("sh").ends_with("/sh"));
  EXPECT_EQ(find_program("volt-test-no-such-program"), "");
  EXPECT_EQ(find_program("/bin/no-such-program"), "");
}

}  // namespace
}  // namespace volt::tools
