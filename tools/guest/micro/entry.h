// What entry.S calls in ring 3, with an empty stack and x87 and MXCSR at their defaults. Each guest
// built by volt_guest() defines both.
#pragma once

#include <cstdint>

extern "C" {

// `booted_by` is kBootedByVolt, and `argument` the window's address; or it is kBootedByPvh, and
// `argument` the address of hvm_start_info.
[[noreturn]] void guest_boot(std::uint64_t argument, std::uint64_t booted_by);

[[noreturn]] void guest_resume(std::uint64_t window);

}  // extern "C"
