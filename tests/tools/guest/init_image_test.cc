// The agent's file as it goes into a guest's first root: it must need nothing else that is there.
#include "tools/guest/init_image.h"

#include <elf.h>
#include <gtest/gtest.h>

#include <cstring>

namespace volt {
namespace {

constexpr std::size_t kMostBytes = 1 << 20;

TEST(InitImage, IsASmallProgramThatNeedsNoLibraries) {
  const std::span<const std::byte> image = tools::init_image();
  ASSERT_GE(image.size(), sizeof(Elf64_Ehdr));
  EXPECT_LT(image.size(), kMostBytes);
  Elf64_Ehdr head;
  std::memcpy(&head, image.data(), sizeof head);
  EXPECT_EQ(std::memcmp(head.e_ident, ELFMAG, SELFMAG), 0);
  EXPECT_EQ(head.e_machine, EM_X86_64);
  EXPECT_EQ(head.e_type, ET_EXEC);
  for (std::size_t i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr part;
    const std::size_t at = head.e_phoff + i * sizeof part;
    ASSERT_LE(at + sizeof part, image.size());
    std::memcpy(&part, image.data() + at, sizeof part);
    EXPECT_NE(part.p_type, static_cast<Elf64_Word>(PT_INTERP));
    EXPECT_NE(part.p_type, static_cast<Elf64_Word>(PT_DYNAMIC));
  }
}

}  // namespace
}  // namespace volt
