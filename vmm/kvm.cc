#include "vmm/kvm.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/os/fault_guard.h"

namespace volt::vmm {
namespace {

// Structs that end in an array whose length the head states.
template <typename Head, typename Entry, std::size_t kEntries>
struct WithEntries {
  Head head;
  Entry entries[kEntries];
};
template <std::size_t kEntries>
using CpuidList = WithEntries<kvm_cpuid2, kvm_cpuid_entry2, kEntries>;

constexpr std::size_t kMaxCpuid = 256;
constexpr std::size_t kMsrBatch = 64;

template <typename T>
Result<T> get(const Fd& fd, unsigned long request, const char* name) {
  T value = {};
  if (::ioctl(fd.get(), request, &value) < 0) return sys_error(name);
  return value;
}

template <typename T>
Result<> set(const Fd& fd, unsigned long request, const T& value, const char* name) {
  if (::ioctl(fd.get(), request, &value) < 0) return sys_error(name);
  return {};
}

}  // namespace

Result<Vcpu::Ran> Vcpu::run() {
  const PoisonWatch watch;
  const int returned = ::ioctl(fd_.get(), KVM_RUN, 0);
  if (watch.struck())
    errno = EFAULT;  // as for a page that is forbidden; running again would not help
  if (returned == 0 && !watch.struck()) return Ran::kExited;
  if (errno == EINTR || errno == EAGAIN) return Ran::kInterrupted;
  return sys_error("KVM_RUN");
}

Result<kvm_regs> Vcpu::get_regs() const {
  return get<kvm_regs>(fd_, KVM_GET_REGS, "KVM_GET_REGS");
}
Result<> Vcpu::set_regs(const kvm_regs& regs) {
  return set(fd_, KVM_SET_REGS, regs, "KVM_SET_REGS");
}
Result<kvm_sregs> Vcpu::get_sregs() const {
  return get<kvm_sregs>(fd_, KVM_GET_SREGS, "KVM_GET_SREGS");
}
Result<> Vcpu::set_sregs(const kvm_sregs& sregs) {
  return set(fd_, KVM_SET_SREGS, sregs, "KVM_SET_SREGS");
}

Result<std::vector<std::byte>> Vcpu::get_xsave(std::size_t bytes) const {
  std::vector<std::byte> area(std::max(bytes, sizeof(kvm_xsave)));
  const unsigned long request = bytes > sizeof(kvm_xsave) ? KVM_GET_XSAVE2 : KVM_GET_XSAVE;
  if (::ioctl(fd_.get(), request, area.data()) < 0) return sys_error("KVM_GET_XSAVE");
  return area;
}
Result<> Vcpu::set_xsave(std::span<const std::byte> area) {
  // The kernel reads as many bytes as this guest's features need: never fewer than it has.
  std::vector<std::byte> padded(std::max(area.size(), sizeof(kvm_xsave)));
  std::copy(area.begin(), area.end(), padded.begin());
  if (::ioctl(fd_.get(), KVM_SET_XSAVE, padded.data()) < 0) return sys_error("KVM_SET_XSAVE");
  return {};
}

Result<kvm_xcrs> Vcpu::get_xcrs() const {
  return get<kvm_xcrs>(fd_, KVM_GET_XCRS, "KVM_GET_XCRS");
}
Result<> Vcpu::set_xcrs(const kvm_xcrs& xcrs) {
  return set(fd_, KVM_SET_XCRS, xcrs, "KVM_SET_XCRS");
}
Result<kvm_debugregs> Vcpu::get_debugregs() const {
  return get<kvm_debugregs>(fd_, KVM_GET_DEBUGREGS, "KVM_GET_DEBUGREGS");
}
Result<> Vcpu::set_debugregs(const kvm_debugregs& debugregs) {
  return set(fd_, KVM_SET_DEBUGREGS, debugregs, "KVM_SET_DEBUGREGS");
}
Result<kvm_vcpu_events> Vcpu::get_vcpu_events() const {
  return get<kvm_vcpu_events>(fd_, KVM_GET_VCPU_EVENTS, "KVM_GET_VCPU_EVENTS");
}
Result<> Vcpu::set_vcpu_events(const kvm_vcpu_events& events) {
  return set(fd_, KVM_SET_VCPU_EVENTS, events, "KVM_SET_VCPU_EVENTS");
}
Result<kvm_mp_state> Vcpu::get_mp_state() const {
  return get<kvm_mp_state>(fd_, KVM_GET_MP_STATE, "KVM_GET_MP_STATE");
}
Result<> Vcpu::set_mp_state(const kvm_mp_state& state) {
  return set(fd_, KVM_SET_MP_STATE, state, "KVM_SET_MP_STATE");
}

Result<std::size_t> Vcpu::get_msrs(std::span<kvm_msr_entry> msrs) const {
  WithEntries<kvm_msrs, kvm_msr_entry, kMsrBatch> list = {};
  const std::size_t count = std::min(msrs.size(), kMsrBatch);
  list.head.nmsrs = static_cast<std::uint32_t>(count);
  std::copy_n(msrs.begin(), count, list.entries);
  const int handled = ::ioctl(fd_.get(), KVM_GET_MSRS, &list);
  if (handled < 0) return sys_error("KVM_GET_MSRS");
  std::copy_n(list.entries, handled, msrs.begin());
  return static_cast<std::size_t>(handled);
}

Result<std::size_t> Vcpu::set_msrs(std::span<const kvm_msr_entry> msrs) {
  WithEntries<kvm_msrs, kvm_msr_entry, kMsrBatch> list = {};
  const std::size_t count = std::min(msrs.size(), kMsrBatch);
  list.head.nmsrs = static_cast<std::uint32_t>(count);
  std::copy_n(msrs.begin(), count, list.entries);
  const int handled = ::ioctl(fd_.get(), KVM_SET_MSRS, &list);
  if (handled < 0) return sys_error("KVM_SET_MSRS");
  return static_cast<std::size_t>(handled);
}

Result<std::vector<kvm_cpuid_entry2>> Vcpu::get_cpuid2() const {
  CpuidList<kMaxCpuid> list = {};
  list.head.nent = kMaxCpuid;
  if (::ioctl(fd_.get(), KVM_GET_CPUID2, &list) < 0) return sys_error("KVM_GET_CPUID2");
  // Linux 6.1 leaves nent at the room it was given: the entries it did not write are still zero.
  std::size_t count = std::min<std::size_t>(list.head.nent, kMaxCpuid);
  constexpr kvm_cpuid_entry2 kUnwritten = {};
  while (count > 0 && std::memcmp(&list.entries[count - 1], &kUnwritten, sizeof kUnwritten) == 0) {
    --count;
  }
  return std::vector(list.entries, list.entries + count);
}

Result<> Vcpu::set_cpuid2(std::span<const kvm_cpuid_entry2> entries) {
  CpuidList<kMaxCpuid> list;
  if (entries.size() > kMaxCpuid) return fail(Code::kInvalid, "KVM_SET_CPUID2: over 256 entries");
  list.head.nent = static_cast<std::uint32_t>(entries.size());
  list.head.padding = 0;
  std::copy(entries.begin(), entries.end(), list.entries);
  if (::ioctl(fd_.get(), KVM_SET_CPUID2, &list) < 0) return sys_error("KVM_SET_CPUID2");
  return {};
}

Result<kvm_lapic_state> Vcpu::get_lapic() const {
  return get<kvm_lapic_state>(fd_, KVM_GET_LAPIC, "KVM_GET_LAPIC");
}
Result<> Vcpu::set_lapic(const kvm_lapic_state& state) {
  return set(fd_, KVM_SET_LAPIC, state, "KVM_SET_LAPIC");
}
Result<> Vcpu::set_tsc_khz(std::uint64_t khz) {
  if (::ioctl(fd_.get(), KVM_SET_TSC_KHZ, khz) < 0) return sys_error("KVM_SET_TSC_KHZ");
  return {};
}

Result<> Vm::set_user_memory_region(std::uint32_t slot, std::uint64_t guest_base,
                                    std::span<std::byte> memory) {
  const kvm_userspace_memory_region region = {
      .slot = slot,
      .flags = 0,
      .guest_phys_addr = guest_base,
      .memory_size = memory.size(),
      .userspace_addr = reinterpret_cast<std::uintptr_t>(memory.data()),
  };
  return set(fd_, KVM_SET_USER_MEMORY_REGION, region, "KVM_SET_USER_MEMORY_REGION");
}

Result<Vcpu> Vm::create_vcpu(std::uint32_t id) {
  Fd fd{::ioctl(fd_.get(), KVM_CREATE_VCPU, static_cast<unsigned long>(id))};
  if (!fd.valid()) return sys_error("KVM_CREATE_VCPU");
  Mapping run = VOLT_TRY(
      Mapping::create(run_bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd.get(), 0, "kvm_run"));
  return Vcpu(std::move(fd), std::move(run));
}

Result<> Vm::enable_cap(std::uint32_t capability, std::uint64_t argument) {
  kvm_enable_cap request = {};
  request.cap = capability;
  request.args[0] = argument;
  return set(fd_, KVM_ENABLE_CAP, request, "KVM_ENABLE_CAP");
}

Result<> Vm::ioeventfd(std::uint16_t port, const Fd& event) {
  kvm_ioeventfd request = {};
  request.addr = port;
  request.len = 4;
  request.fd = event.get();
  request.flags = KVM_IOEVENTFD_FLAG_PIO;
  return set(fd_, KVM_IOEVENTFD, request, "KVM_IOEVENTFD");
}

Result<> Vm::set_tss_addr(std::uint64_t address) {
  if (::ioctl(fd_.get(), KVM_SET_TSS_ADDR, address) < 0) return sys_error("KVM_SET_TSS_ADDR");
  return {};
}
Result<> Vm::set_identity_map_addr(std::uint64_t address) {
  return set(fd_, KVM_SET_IDENTITY_MAP_ADDR, address, "KVM_SET_IDENTITY_MAP_ADDR");
}
Result<> Vm::create_irqchip() {
  if (::ioctl(fd_.get(), KVM_CREATE_IRQCHIP, 0) < 0) return sys_error("KVM_CREATE_IRQCHIP");
  return {};
}

Result<kvm_irqchip> Vm::get_irqchip(std::uint32_t chip) const {
  kvm_irqchip state = {};
  state.chip_id = chip;
  if (::ioctl(fd_.get(), KVM_GET_IRQCHIP, &state) < 0) return sys_error("KVM_GET_IRQCHIP");
  return state;
}
Result<> Vm::set_irqchip(const kvm_irqchip& state) {
  return set(fd_, KVM_SET_IRQCHIP, state, "KVM_SET_IRQCHIP");
}

Result<> Vm::set_gsi_routing(std::span<const kvm_irq_routing_entry> entries) {
  constexpr std::size_t kMost = 64;
  WithEntries<kvm_irq_routing, kvm_irq_routing_entry, kMost> list = {};
  if (entries.size() > kMost) return fail(Code::kInvalid, "KVM_SET_GSI_ROUTING: over 64 entries");
  list.head.nr = static_cast<std::uint32_t>(entries.size());
  std::ranges::copy(entries, list.entries);
  return set(fd_, KVM_SET_GSI_ROUTING, list, "KVM_SET_GSI_ROUTING");
}

Result<> Vm::irqfd(std::uint32_t gsi, const Fd& event) {
  kvm_irqfd request = {};
  request.fd = static_cast<std::uint32_t>(event.get());
  request.gsi = gsi;
  return set(fd_, KVM_IRQFD, request, "KVM_IRQFD");
}

Result<kvm_clock_data> Vm::get_clock() const {
  return get<kvm_clock_data>(fd_, KVM_GET_CLOCK, "KVM_GET_CLOCK");
}
Result<> Vm::set_clock(const kvm_clock_data& clock) {
  return set(fd_, KVM_SET_CLOCK, clock, "KVM_SET_CLOCK");
}

Result<std::uint64_t> Vm::get_tsc_khz() const {
  const int khz = ::ioctl(fd_.get(), KVM_GET_TSC_KHZ, 0);
  if (khz < 0) return sys_error("KVM_GET_TSC_KHZ");
  return static_cast<std::uint64_t>(khz);
}

Result<Kvm> Kvm::open() {
  Fd fd{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
  if (!fd.valid()) {
    const int code = errno;
    const char* advice = code == ENOENT   ? "the kvm module is not loaded, or this machine has none"
                         : code == EACCES ? "this user may not use it; join the group 'kvm'"
                                          : std::strerror(code);
    return std::unexpected(Error{Code::kHostUnable, code, std::string("/dev/kvm: ") + advice});
  }
  const int version = ::ioctl(fd.get(), KVM_GET_API_VERSION, 0);
  if (version != KVM_API_VERSION) {
    return fail(Code::kHostUnable, "/dev/kvm: API version " + std::to_string(version) +
                                       ", this build speaks " + std::to_string(KVM_API_VERSION));
  }
  const int run_bytes = ::ioctl(fd.get(), KVM_GET_VCPU_MMAP_SIZE, 0);
  if (run_bytes < static_cast<int>(sizeof(kvm_run))) return sys_error("KVM_GET_VCPU_MMAP_SIZE");
  Kvm kvm(std::move(fd), static_cast<std::size_t>(run_bytes));
  constexpr int kNeeded = KVM_SYNC_X86_REGS | KVM_SYNC_X86_SREGS;
  const int sync = VOLT_TRY(kvm.check_extension(KVM_CAP_SYNC_REGS));
  if ((sync & kNeeded) != kNeeded) {
    return fail(Code::kHostUnable, "/dev/kvm: no KVM_CAP_SYNC_REGS; Volt needs Linux 6.1 or later");
  }
  return kvm;
}

Result<int> Kvm::check_extension(int capability) const {
  const int value = ::ioctl(fd_.get(), KVM_CHECK_EXTENSION, capability);
  if (value < 0) return sys_error("KVM_CHECK_EXTENSION", std::to_string(capability));
  return value;
}

Result<Vm> Kvm::create_vm() const {
  for (;;) {
    Fd fd{::ioctl(fd_.get(), KVM_CREATE_VM, 0)};
    if (fd.valid()) return Vm(std::move(fd), run_bytes_);
    // It locks the whole address space, and gives up half-way when a signal is pending, such as an
    // earlier call's deadline.
    if (errno != EINTR) return sys_error("KVM_CREATE_VM");
  }
}

Result<std::vector<kvm_cpuid_entry2>> Kvm::get_supported_cpuid() const {
  CpuidList<kMaxCpuid> list = {};
  list.head.nent = kMaxCpuid;
  if (::ioctl(fd_.get(), KVM_GET_SUPPORTED_CPUID, &list) < 0) {
    return sys_error("KVM_GET_SUPPORTED_CPUID");
  }
  return std::vector(list.entries, list.entries + std::min<std::size_t>(list.head.nent, kMaxCpuid));
}

Result<std::vector<std::uint32_t>> Kvm::get_msr_index_list() const {
  constexpr std::size_t kMost = 1024;
  WithEntries<kvm_msr_list, std::uint32_t, kMost> list = {};
  list.head.nmsrs = kMost;
  if (::ioctl(fd_.get(), KVM_GET_MSR_INDEX_LIST, &list) < 0) {
    return sys_error("KVM_GET_MSR_INDEX_LIST");
  }
  return std::vector(list.entries, list.entries + std::min<std::size_t>(list.head.nmsrs, kMost));
}

}  // namespace volt::vmm
