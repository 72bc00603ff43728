// What a guest's checksums must be, computed by the host from the seed alone.
#pragma once

#include <cstdint>
#include <span>

#include "formats/manifest.h"

namespace volt::tools {

// Over a whole seeded working set in which some pages were touched once each.
std::uint64_t seeded_sum(std::uint64_t seed, std::uint64_t pages,
                         std::span<const std::uint64_t> touched = {});

// What `touch` of these pages answers.
std::uint64_t touch_sum(std::uint64_t seed, std::span<const std::uint64_t> pages);

// What a scan of all of the clone's working set must answer: from the seed where nothing was called
// between boot and capture, else what the host summed at capture; 0 if it did not.
std::uint64_t expected_scan(const formats::v1::Guest& guest);

}  // namespace volt::tools
