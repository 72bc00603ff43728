// Guests that stop by their own fault: the host survives, and names what happened and where.
#include <sys/mman.h>

#include <charconv>
#include <string>

#include "tests/vmm/guest_fixture.h"

namespace volt::vmm {
namespace {

using guest_abi::CrashKind;
using test::GuestTest;

using CrashTest = GuestTest;

// The number after `name ` in a crash report.
std::uint64_t number_after(const std::string& text, const std::string& name) {
  const std::size_t at = text.find(name + " 0x");
  EXPECT_NE(at, std::string::npos) << name << " in: " << text;
  if (at == std::string::npos) return 0;
  std::uint64_t value = 0;
  const char* const first = text.data() + at + name.size() + 3;
  std::from_chars(first, text.data() + text.size(), value, 16);
  return value;
}

void expect_between(std::uint64_t value, std::uint64_t first, std::uint64_t end) {
  EXPECT_GE(value, first);
  EXPECT_LT(value, end);
}

constexpr std::uint64_t kText = 0x20'0000;
constexpr std::uint64_t kStack = 0x40'0000;
constexpr std::uint64_t kStackEnd = 0x40'4800;

TEST_F(CrashTest, EachKindOfCrashNamesItsExceptionAndItsRegisters) {
  const struct {
    CrashKind kind;
    const char* named;
    std::uint64_t rip_from, rip_to;
    std::uint64_t cr2_from, cr2_to;  // page faults only
  } kTable[] = {
      {CrashKind::kUndefined, "exception 6 (invalid opcode)", kText, kStack, 0, 0},
      {CrashKind::kNull, "exception 14 (page fault)", kText, kStack, 0, 1},
      {CrashKind::kDivide, "exception 0 (divide error)", kText, kStack, 0, 0},
      {CrashKind::kWriteCode, "exception 14 (page fault)", kText, kStack, kText, kStack},
      {CrashKind::kRunData, "exception 14 (page fault)", kStack, kStackEnd, kStack, kStackEnd},
      {CrashKind::kStack, "exception 14 (page fault)", kText, kStack, kStack - 4096, kStack},
  };
  for (const auto& each : kTable) {
    SCOPED_TRACE(each.named + std::string(", kind ") +
                 std::to_string(static_cast<std::uint64_t>(each.kind)));
    const auto machine = boot_echo();
    const auto reply =
        call(*machine, test::Function::kCrash, {static_cast<std::uint64_t>(each.kind)});
    ASSERT_FALSE(reply);
    const std::string& text = reply.error().context;
    EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
    EXPECT_NE(text.find(each.named), std::string::npos) << text;
    expect_between(number_after(text, "rip"), each.rip_from, each.rip_to);
    if (each.cr2_to != 0) {
      expect_between(number_after(text, "cr2"), each.cr2_from, each.cr2_to);
    }
  }
}

TEST_F(CrashTest, AnAddressWithoutMemoryIsNamed) {
  const auto machine = boot_echo();
  const auto reply =
      call(*machine, test::Function::kCrash, {static_cast<std::uint64_t>(CrashKind::kUnbacked)});
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
  const std::string& text = reply.error().context;
  EXPECT_NE(text.find("it read 8 bytes at 0x1000000, where no memory is"), std::string::npos)
      << text;
  expect_between(number_after(text, "rip"), kText, kStack);
}

// Which of the two stops it depends on whether the host looks at IOPL or at the TSS bitmap.
TEST_F(CrashTest, APortOutsideTheGuestsBitmapEndsItNamed) {
  for (const std::uint64_t port : {0x70u, 0x570u, 0x7FFu, 0x800u, 0xFFFFu}) {
    const auto machine = boot_exact();
    const auto reply = call(*machine, test::exact_call(exact::Function::kOut, test::words({port})));
    ASSERT_FALSE(reply) << port;
    EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
    const std::string& text = reply.error().context;
    char named[32];
    std::snprintf(named, sizeof named, "port 0x%llx ", static_cast<unsigned long long>(port));
    EXPECT_TRUE(text.find("(general protection)") != std::string::npos ||
                text.find(named) != std::string::npos)
        << text;
  }
}

TEST_F(CrashTest, APortInsideTheBitmapThatIsNoneOfOursIsNamed) {
  const auto machine = boot_exact();
  const auto reply = call(*machine, test::exact_call(exact::Function::kOut, test::words({0x3F8})));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
  EXPECT_NE(reply.error().context.find("it wrote port 0x3f8 (4 bytes)"), std::string::npos)
      << reply.error().context;
}

TEST_F(CrashTest, AGuestThatEndsItselfSaysItsCode) {
  const auto machine = boot_exact();
  const auto reply =
      call(*machine, test::exact_call(exact::Function::kOut, test::words({guest_abi::kPortExit})));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
  EXPECT_EQ(reply.error().context, "the guest ended itself with code 0");
}

TEST_F(CrashTest, AFalseAlarmFromRing3IsReportedNotBelieved) {
  const auto machine = boot_exact();
  const auto reply =
      call(*machine, test::exact_call(exact::Function::kOut, test::words({guest_abi::kPortPanic})));
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, Code::kGuestCrashed);
}

TEST_F(CrashTest, APageOfGuestMemoryThatCannotBeHadStopsTheCallUntilItCanBe) {
  const auto machine = boot_kv();
  const std::uint64_t address = 0x60'0000 + 9 * guest_abi::kPageBytes;
  const auto page = machine->memory().at(address, guest_abi::kPageBytes).value();
  ASSERT_EQ(::mprotect(page.data(), page.size(), PROT_NONE), 0);
  const auto lost = call(*machine, test::Function::kScan, {9, 1});
  ASSERT_FALSE(lost);
  EXPECT_EQ(lost.error().code, Code::kPageLost) << lost.error().context;
  ASSERT_EQ(::mprotect(page.data(), page.size(), PROT_READ | PROT_WRITE), 0);
  const auto reply = finish_call(*machine, test::soon(), {});
  ASSERT_TRUE(reply) << reply.error().context;
  EXPECT_EQ(reply->words, 512u);
}

}  // namespace
}  // namespace volt::vmm
