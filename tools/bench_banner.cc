#include "tools/bench_banner.h"

#include <elf.h>

#include <cstring>

#include "vmm/initramfs.h"

// write(1, the banner), then reboot(..., LINUX_REBOOT_CMD_POWER_OFF), in a program of its own.
asm(R"(
  .pushsection .rodata
volt_banner_begin:
  mov $1, %eax
  mov $1, %edi
  lea volt_banner_text(%rip), %rsi
  mov $(volt_banner_end - volt_banner_text), %edx
  syscall
  mov $169, %eax
  mov $0xfee1dead, %edi
  mov $0x28121969, %esi
  mov $0x4321fedc, %edx
  syscall
  ud2
volt_banner_text:
  .ascii "volt-bench: userspace\n"
volt_banner_end:
  .popsection
)");
extern "C" const std::byte volt_banner_begin[], volt_banner_end[];

namespace volt::tools {
namespace {

std::vector<std::byte> banner_program() {
  constexpr std::uint64_t kBase = 4 << 20;
  const auto code_bytes = static_cast<std::size_t>(volt_banner_end - volt_banner_begin);
  const std::size_t head_bytes = sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr);
  Elf64_Ehdr head = {};
  std::memcpy(head.e_ident, ELFMAG, SELFMAG);
  head.e_ident[EI_CLASS] = ELFCLASS64;
  head.e_ident[EI_DATA] = ELFDATA2LSB;
  head.e_ident[EI_VERSION] = EV_CURRENT;
  head.e_type = ET_EXEC;
  head.e_machine = EM_X86_64;
  head.e_version = EV_CURRENT;
  head.e_entry = kBase + head_bytes;
  head.e_phoff = sizeof head;
  head.e_ehsize = sizeof head;
  head.e_phentsize = sizeof(Elf64_Phdr);
  head.e_phnum = 1;
  Elf64_Phdr all = {};
  all.p_type = PT_LOAD;
  all.p_flags = PF_R | PF_X;
  all.p_vaddr = all.p_paddr = kBase;
  all.p_filesz = all.p_memsz = head_bytes + code_bytes;
  all.p_align = 4096;
  std::vector<std::byte> program(head_bytes + code_bytes);
  std::memcpy(program.data(), &head, sizeof head);
  std::memcpy(program.data() + sizeof head, &all, sizeof all);
  std::memcpy(program.data() + head_bytes, volt_banner_begin, code_bytes);
  return program;
}

}  // namespace

Result<std::vector<std::byte>> banner_initrd() {
  const std::vector<std::byte> program = banner_program();
  std::vector<vmm::InitramfsEntry> entries = vmm::console_entries();
  entries.push_back({.path = "init", .bytes = program});
  return vmm::encode_initramfs(entries);
}

}  // namespace volt::tools
