#include "tools/guest/micro_image.h"

extern "C" {
extern const std::byte volt_micro_image_begin[];
extern const std::byte volt_micro_image_end[];
}

namespace volt::tools {

std::span<const std::byte> micro_image() {
  return {volt_micro_image_begin, volt_micro_image_end};
}

}  // namespace volt::tools
