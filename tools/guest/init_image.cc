#include "tools/guest/init_image.h"

extern "C" {
extern const std::byte volt_init_image_begin[];
extern const std::byte volt_init_image_end[];
}

namespace volt::tools {

std::span<const std::byte> init_image() {
  return {volt_init_image_begin, volt_init_image_end};
}

}  // namespace volt::tools
