#include "tests/guest/test_guests.h"

extern "C" {
extern const std::byte volt_exact_begin[], volt_exact_end[];
extern const std::byte volt_nonsense_begin[], volt_nonsense_end[];
extern const std::byte volt_reach_begin[], volt_reach_end[];
}

namespace volt::test {

std::span<const std::byte> exact_image() {
  return {volt_exact_begin, volt_exact_end};
}

std::span<const std::byte> nonsense_image() {
  return {volt_nonsense_begin, volt_nonsense_end};
}

std::span<const std::byte> reach_image() {
  return {volt_reach_begin, volt_reach_end};
}

}  // namespace volt::test
