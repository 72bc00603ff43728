// See floor.h. The guest's addresses and the exchange window's offsets are restated here as numbers
// on purpose: this file shares nothing with the project but the guest it runs.
#include "bench/floor.h"

#include <elf.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace volt_floor {
namespace {

constexpr std::uint64_t kLowEnd = 0xC000'0000, kHighBase = 0x1'0000'0000;
constexpr std::uint64_t kWindowBase = 0xD000'0000, kWindowBytes = 0x20'0000;
constexpr std::uint64_t kEntry = 0x20'0000, kResume = 0x20'0010, kStackTop = 0x40'4800;
constexpr std::uint16_t kReadyPort = 0x560, kDonePort = 0x562;
// Offsets in the window's first page.
constexpr std::size_t kBoot = 0, kIdentity = 64, kRequest = 192, kResponse = 320;
constexpr std::size_t kInlineRequest = 1024, kLargeRequest = 0x1'0000;

std::string g_reply;

[[noreturn]] void die(const char* what) {
  std::perror(what);
  std::exit(1);
}

int must(int result, const char* what) {
  if (result < 0) die(what);
  return result;
}

std::uint64_t now_ns() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 +
         static_cast<std::uint64_t>(now.tv_nsec);
}

class Clock {
 public:
  explicit Clock(Timing& timing) : timing_(timing) {}
  void step(const char* name) {
    const std::uint64_t now = now_ns();
    timing_.steps.push_back({name, now - last_});
    timing_.total_ns += now - last_;
    last_ = now;
  }

 private:
  Timing& timing_;
  std::uint64_t last_ = now_ns();
};

void* map(std::size_t bytes, int flags, int fd, std::uint64_t offset, void* at = nullptr) {
  void* p = ::mmap(at, bytes, PROT_READ | PROT_WRITE, flags, fd, static_cast<off_t>(offset));
  if (p == MAP_FAILED) die("mmap");
  return p;
}

void set_slot(int vm, std::uint32_t slot, std::uint64_t base, void* host, std::uint64_t bytes) {
  kvm_userspace_memory_region region = {};
  region.slot = slot;
  region.guest_phys_addr = base;
  region.memory_size = bytes;
  region.userspace_addr = reinterpret_cast<std::uint64_t>(host);
  must(::ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
}

kvm_segment flat(std::uint16_t selector, std::uint8_t type, bool code) {
  kvm_segment s = {};
  s.limit = 0xFFFF'FFFF;
  s.selector = selector;
  s.type = type;
  s.present = s.s = s.g = 1;
  s.dpl = 3;
  s.l = code ? 1 : 0;
  s.db = code ? 0 : 1;
  return s;
}

// Registers ride on the first KVM_RUN: no ioctl of their own.
void set_registers(kvm_run* run, std::uint64_t rip) {
  kvm_regs& regs = run->s.regs.regs;
  std::memset(&regs, 0, sizeof regs);
  regs.rip = rip;
  regs.rsp = kStackTop;
  regs.rdi = kWindowBase;
  regs.rsi = 1;
  regs.rflags = 0x3002;
  kvm_sregs& sregs = run->s.regs.sregs;
  std::memset(&sregs, 0, sizeof sregs);
  sregs.cs = flat(0x2B, 0xB, true);
  sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = flat(0x23, 0x3, false);
  sregs.tr.base = 0x10'1400;
  sregs.tr.limit = 0x168;
  sregs.tr.selector = 0x30;
  sregs.tr.type = 0xB;
  sregs.tr.present = 1;
  sregs.ldt.unusable = 1;
  sregs.gdt.base = 0x10'1000;
  sregs.gdt.limit = 0x3F;
  sregs.idt.base = 0x10'1100;
  sregs.idt.limit = 0x1FF;
  sregs.cr0 = 0x8001'0033;
  sregs.cr3 = 0x10'4000;
  sregs.cr4 = 0x620;
  sregs.efer = 0xD00;
  sregs.apic_base = 0xFEE0'0900;
  run->kvm_dirty_regs = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
}

template <typename T>
void put(std::byte* window, std::size_t offset, T value) {
  std::memcpy(window + offset, &value, sizeof value);
}
template <typename T>
T take(const std::byte* window, std::size_t offset) {
  T value;
  std::memcpy(&value, window + offset, sizeof value);
  return value;
}

void put_identity(std::byte* window) {
  put<std::uint64_t>(window, kIdentity, 1);
  put<std::uint64_t>(window, kIdentity + 64, 2'000'000'000);  // TSC Hz
}

void put_request(std::byte* window, const Request& request, std::uint32_t number = 1) {
  const std::size_t bytes = request.arguments.size();
  const std::size_t offset = bytes <= 1024 ? kInlineRequest : kLargeRequest;
  if (bytes != 0) std::memcpy(window + offset, request.arguments.data(), bytes);
  put<std::uint32_t>(window, kRequest + 4, request.function);
  put(window, kRequest + 8, static_cast<std::uint32_t>(offset));
  put(window, kRequest + 12, static_cast<std::uint32_t>(bytes));
  put(window, kRequest, number);
}

// The kernel ends KVM_RUN without any signal, too: where it has work for this thread, as after a
// ring of io_uring that this process has closed.
void run_to(int vcpu, kvm_run* run, std::uint16_t port) {
  int ran;
  while ((ran = ::ioctl(vcpu, KVM_RUN, 0)) < 0 && errno == EINTR) {
  }
  must(ran, "KVM_RUN");
  if (run->exit_reason != KVM_EXIT_IO || run->io.port != port) {
    std::fprintf(stderr, "floor: exit %u, port 0x%x\n", run->exit_reason, unsigned{run->io.port});
    std::exit(1);
  }
}

void keep_reply(const std::byte* window, Timing& timing) {
  const auto offset = take<std::uint32_t>(window, kResponse + 8);
  const auto bytes = take<std::uint32_t>(window, kResponse + 12);
  timing.checksum = take<std::uint64_t>(window, offset);
  g_reply.assign(reinterpret_cast<const char*>(window) + offset + 16, bytes - 16);
}

// What a VM holds; released after the clock has stopped.
struct Vm {
  int vm = -1, vcpu = -1;
  kvm_run* run = nullptr;
  std::size_t run_bytes = 0;
  std::byte* window = nullptr;
  void* ram = nullptr;
  std::uint64_t ram_bytes = 0;

  ~Vm() {
    ::munmap(run, run_bytes);
    ::close(vcpu);
    ::close(vm);
    ::munmap(window, kWindowBytes);
    ::munmap(ram, ram_bytes);
  }

  void add_window() {
    window = static_cast<std::byte*>(
        map(kWindowBytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    set_slot(vm, 0, kWindowBase, window, kWindowBytes);
  }
  void add_cpu(int kvm) {
    vcpu = must(::ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    run_bytes = static_cast<std::size_t>(
        must(::ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE"));
    run = static_cast<kvm_run*>(map(run_bytes, MAP_SHARED, vcpu, 0));
  }
  void add_ram_slots(std::span<const Slot> slots) {
    std::uint32_t number = 1;
    for (const Slot& slot : slots) {
      set_slot(vm, number++, slot.guest_base, static_cast<std::byte*>(ram) + slot.file_offset,
               slot.bytes);
    }
  }
};

void map_file(Vm& vm, const char* file, int flags) {
  const int fd = must(::open(file, O_RDONLY | O_CLOEXEC), file);
  vm.ram = map(vm.ram_bytes, MAP_PRIVATE | MAP_NORESERVE | flags, fd, 0, vm.ram);
  ::close(fd);
}

void load_elf(std::byte* ram, std::span<const std::byte> elf) {
  Elf64_Ehdr head;
  std::memcpy(&head, elf.data(), sizeof head);
  for (unsigned i = 0; i < head.e_phnum; ++i) {
    Elf64_Phdr segment;
    std::memcpy(&segment, elf.data() + head.e_phoff + i * sizeof segment, sizeof segment);
    if (segment.p_type != PT_LOAD) continue;
    std::memcpy(ram + segment.p_paddr, elf.data() + segment.p_offset, segment.p_filesz);
  }
}

}  // namespace

std::vector<Slot> whole_ram(std::uint64_t ram_bytes) {
  const std::uint64_t low = ram_bytes < kLowEnd ? ram_bytes : kLowEnd;
  std::vector<Slot> slots = {{.guest_base = 0, .file_offset = 0, .bytes = low}};
  if (ram_bytes > low) {
    slots.push_back({.guest_base = kHighBase, .file_offset = low, .bytes = ram_bytes - low});
  }
  return slots;
}

Timing fresh(int kvm, const char* memory_file, std::uint64_t ram_bytes, std::span<const Slot> slots,
             const Request& request) {
  Timing timing;
  Vm vm;
  vm.ram_bytes = ram_bytes;
  Clock clock(timing);
  vm.vm = must(::ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  clock.step("create vm");
  vm.add_window();
  clock.step("window slot");
  vm.add_cpu(kvm);
  clock.step("create vcpu");
  map_file(vm, memory_file, 0);
  clock.step("map memory");
  vm.add_ram_slots(slots);
  clock.step("memory slots");
  timing.slots_ns = timing.steps.back().ns;
  set_registers(vm.run, kResume);
  put_identity(vm.window);
  put_request(vm.window, request);
  clock.step("state");
  run_to(vm.vcpu, vm.run, kDonePort);
  clock.step("run");
  keep_reply(vm.window, timing);
  return timing;
}

Timing existing(int kvm, const char* memory_file, std::uint64_t ram_bytes, const Request& request) {
  Timing timing;
  Vm vm;
  vm.ram_bytes = ram_bytes;
  vm.vm = must(::ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  vm.add_window();
  vm.add_cpu(kvm);
  vm.ram = map(ram_bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  vm.add_ram_slots(whole_ram(ram_bytes));
  Clock clock(timing);
  map_file(vm, memory_file, MAP_FIXED);
  clock.step("map memory");
  set_registers(vm.run, kResume);
  put_identity(vm.window);
  put_request(vm.window, request);
  clock.step("state");
  run_to(vm.vcpu, vm.run, kDonePort);
  clock.step("run");
  keep_reply(vm.window, timing);
  return timing;
}

std::vector<std::uint64_t> stay(int kvm, const char* memory_file, std::uint64_t ram_bytes,
                                std::span<const Slot> slots, std::span<const Request> requests) {
  Vm& vm = *new Vm;  // it stays
  vm.ram_bytes = ram_bytes;
  vm.vm = must(::ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  vm.add_window();
  vm.add_cpu(kvm);
  map_file(vm, memory_file, 0);
  vm.add_ram_slots(slots);
  set_registers(vm.run, kResume);
  put_identity(vm.window);
  std::vector<std::uint64_t> checksums;
  for (const Request& request : requests) {
    const auto number = static_cast<std::uint32_t>(checksums.size() + 1);
    put_request(vm.window, request, number);
    run_to(vm.vcpu, vm.run, kDonePort);
    const bool answered = take<std::uint32_t>(vm.window, kResponse) == number &&
                          take<std::uint32_t>(vm.window, kResponse + 4) == 0;
    if (!answered) {
      std::fprintf(stderr, "floor: the guest refused request %u\n", number);
      std::exit(1);
    }
    checksums.push_back(
        take<std::uint64_t>(vm.window, take<std::uint32_t>(vm.window, kResponse + 8)));
  }
  return checksums;
}

Timing boot(int kvm, std::span<const std::byte> elf, std::uint64_t ram_bytes,
            std::uint32_t workload) {
  Timing timing;
  Vm vm;
  vm.ram_bytes = ram_bytes;
  Clock clock(timing);
  vm.vm = must(::ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
  clock.step("create vm");
  vm.add_window();
  clock.step("window slot");
  vm.add_cpu(kvm);
  clock.step("create vcpu");
  vm.ram = map(ram_bytes, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  load_elf(static_cast<std::byte*>(vm.ram), elf);
  clock.step("load image");
  vm.add_ram_slots(whole_ram(ram_bytes));
  clock.step("memory slots");
  timing.slots_ns = timing.steps.back().ns;
  set_registers(vm.run, kEntry);
  put<std::uint32_t>(vm.window, kBoot, 1);  // ABI version
  put(vm.window, kBoot + 4, workload);
  put(vm.window, kBoot + 8, ram_bytes);
  put_identity(vm.window);
  clock.step("state");
  run_to(vm.vcpu, vm.run, kReadyPort);
  clock.step("run");
  return timing;
}

std::string last_reply() {
  return g_reply;
}

}  // namespace volt_floor
