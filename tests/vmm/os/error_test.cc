#include "vmm/os/error.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cerrno>

namespace volt {
namespace {

Result<int> half(int n) {
  if (n % 2 != 0) return fail(Code::kInvalid, "odd");
  return n / 2;
}

Result<int> quarter(int n) {
  const int halved = VOLT_TRY(half(n));
  return VOLT_TRY_IN("second half", half(halved));
}

TEST(ErrorTest, TryYieldsTheValue) {
  EXPECT_EQ(quarter(8).value(), 2);
}

TEST(ErrorTest, TryReturnsTheFirstError) {
  EXPECT_EQ(quarter(7).error().context, "odd");
  EXPECT_EQ(quarter(7).error().code, Code::kInvalid);
}

TEST(ErrorTest, ContextGrowsOutward) {
  EXPECT_EQ(quarter(6).error().context, "second half: odd");
}

TEST(ErrorTest, SystemErrorsNameCallObjectAndReason) {
  errno = ENOSPC;
  const std::unexpected<Error> error = sys_error("write", "memory");
  EXPECT_EQ(error.error().sys_errno, ENOSPC);
  EXPECT_EQ(error.error().context, "write memory: No space left on device");
}

}  // namespace
}  // namespace volt
