// Question: what does a cold boot of the echo guest cost, in-process, to its ready point, beside
// the floor's? Method: both from the embedded ELF file to READY, in turn, N times each, wall clock;
// who goes first alternates; closing the VM is not timed.
//   volt-boot-bench [N]
#include <fcntl.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "bench/floor.h"
#include "snapshot/sandbox.h"
#include "tools/guest/micro_image.h"
#include "vmm/identity.h"

namespace {

using namespace volt;

constexpr std::uint64_t kRam = 256 << 20;

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

double floor_us(int kvm) {
  const auto timing = volt_floor::boot(kvm, tools::micro_image(), kRam,
                                       static_cast<std::uint32_t>(guest_abi::Workload::kEcho));
  return static_cast<double>(timing.total_ns) / 1e3;
}

double volt_us(const vmm::Kvm& kvm) {
  const std::uint64_t from = vmm::monotonic_clock_ns();
  const auto image = vmm::GuestImage::parse(tools::micro_image());
  if (!image) std::exit(1);
  const auto booted =
      vmm::boot(kvm, *image, {.workload = guest_abi::Workload::kEcho, .ram_bytes = kRam},
                vmm::Deadline::in_ms(10'000));
  const double took = static_cast<double>(vmm::monotonic_clock_ns() - from) / 1e3;
  if (!booted) {
    std::fprintf(stderr, "%s\n", booted.error().context.c_str());
    std::exit(1);
  }
  return took;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned long count = argc > 1 ? std::strtoul(argv[1], nullptr, 10) : 200;
  const Result<vmm::Kvm> kvm = vmm::Kvm::open();
  if (!kvm) {
    std::fprintf(stderr, "error: %s\n", kvm.error().context.c_str());
    return 6;
  }
  const Fd floor_kvm{::open("/dev/kvm", O_RDWR | O_CLOEXEC)};
  std::vector<double> ours, floors;
  for (unsigned long i = 0; i < count; ++i) {
    if (i % 2 == 0) floors.push_back(floor_us(floor_kvm.get()));
    ours.push_back(volt_us(*kvm));
    if (i % 2 == 1) floors.push_back(floor_us(floor_kvm.get()));
  }
  std::printf("boot echo, %lu runs: volt p50 %.1f us, floor p50 %.1f us, ratio of medians %.3f\n",
              count, median(ours), median(floors), median(ours) / median(floors));
  return 0;
}
