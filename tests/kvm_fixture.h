// A test on the real /dev/kvm. Where this machine or this user has none it is skipped, with the
// reason; the gate sets VOLT_REQUIRE_KVM=1, and then it fails instead.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <optional>
#include <string_view>

#include "vmm/kvm.h"

namespace volt::test {

// Also for what else a host may lack, such as userfaultfd.
inline bool host_must_be_able() {
  const char* const required = std::getenv("VOLT_REQUIRE_KVM");
  return required != nullptr && std::string_view(required) == "1";
}

// In SetUp(): the test ends here, one way or the other.
#define VOLT_HOST_UNABLE(error)                                       \
  do {                                                                \
    if (::volt::test::host_must_be_able()) FAIL() << (error).context; \
    GTEST_SKIP() << (error).context;                                  \
  } while (false)

class KvmTest : public testing::Test {
 protected:
  void SetUp() override {
    Result<vmm::Kvm> opened = vmm::Kvm::open();
    if (!opened) VOLT_HOST_UNABLE(opened.error());
    kvm_.emplace(std::move(*opened));
  }

  const vmm::Kvm& kvm() const { return *kvm_; }

 private:
  std::optional<vmm::Kvm> kvm_;
};

}  // namespace volt::test
