// Boots the guests that the tests of this folder run, and calls them.
#pragma once

#include <gtest/gtest.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <span>
#include <vector>

#include "tests/guest/exact_abi.h"
#include "tests/guest/test_guests.h"
#include "tests/kvm_fixture.h"
#include "tools/guest/micro_image.h"
#include "vmm/boot.h"
#include "vmm/call.h"

namespace volt::test {

using guest_abi::Function;

inline constexpr std::uint64_t kGuestRam = 16 << 20;
inline constexpr std::uint64_t kGuestPages = 64;  // of the working set
inline constexpr std::uint64_t kGuestSeed = 42;

// Long enough for any machine: only what hangs meets it.
inline vmm::Deadline soon() {
  return vmm::Deadline::in_ms(60'000);
}

inline std::vector<std::byte> words(std::initializer_list<std::uint64_t> values) {
  const auto bytes = std::as_bytes(std::span(values));
  return {bytes.begin(), bytes.end()};
}

template <typename T>
T reply_as(const vmm::Reply& reply) {
  T value = {};
  EXPECT_EQ(reply.data.size(), sizeof value);
  std::memcpy(&value, reply.data.data(), std::min(reply.data.size(), sizeof value));
  return value;
}

inline vmm::Call exact_call(exact::Function function, std::vector<std::byte> arguments = {}) {
  return {.function = Function{static_cast<std::uint32_t>(function)},
          .arguments = std::move(arguments)};
}

class GuestTest : public KvmTest {
 protected:
  Result<vmm::Booted> boot(std::span<const std::byte> file, const vmm::BootConfig& config) const {
    const vmm::GuestImage image = VOLT_TRY(vmm::GuestImage::parse(file));
    return vmm::boot(kvm(), image, config, soon());
  }

  std::unique_ptr<vmm::Machine> boot_echo() const {
    return machine_of(boot(tools::micro_image(),
                           {.workload = guest_abi::Workload::kEcho, .ram_bytes = kGuestRam}));
  }
  std::unique_ptr<vmm::Machine> boot_kv() const {
    return machine_of(
        boot(tools::micro_image(), {.workload = guest_abi::Workload::kKv,
                                    .ram_bytes = kGuestRam,
                                    .working_set_bytes = kGuestPages * guest_abi::kPageBytes,
                                    .seed = kGuestSeed}));
  }
  std::unique_ptr<vmm::Machine> boot_exact() const {
    return machine_of(boot(exact_image(), {.ram_bytes = kGuestRam}));
  }

  static Result<vmm::Reply> call(vmm::Machine& machine, const vmm::Call& call) {
    return vmm::call_guest(machine, call, soon(), {});
  }
  static Result<vmm::Reply> call(vmm::Machine& machine, Function function,
                                 std::initializer_list<std::uint64_t> arguments) {
    return call(machine, {.function = function, .arguments = words(arguments)});
  }

 private:
  static std::unique_ptr<vmm::Machine> machine_of(Result<vmm::Booted> booted) {
    if (!booted) throw std::runtime_error(booted.error().context);  // gtest fails the test with it
    return std::move(booted->machine);
  }
};

}  // namespace volt::test
