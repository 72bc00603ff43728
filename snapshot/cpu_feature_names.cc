#include "snapshot/cpu_feature_names.h"

#include <algorithm>
#include <iterator>

namespace volt::snapshot {
namespace {

struct Name {
  std::uint32_t function, index;
  CpuidRegister word;
  unsigned bit;
  const char* name;
};

using enum CpuidRegister;

// Those by which hosts that run VMs differ; what every one of them has needs no name.
constexpr Name kNames[] = {
    {1, 0, kEcx, 0, "pni"},
    {1, 0, kEcx, 1, "pclmulqdq"},
    {1, 0, kEcx, 9, "ssse3"},
    {1, 0, kEcx, 12, "fma"},
    {1, 0, kEcx, 13, "cx16"},
    {1, 0, kEcx, 17, "pcid"},
    {1, 0, kEcx, 19, "sse4_1"},
    {1, 0, kEcx, 20, "sse4_2"},
    {1, 0, kEcx, 21, "x2apic"},
    {1, 0, kEcx, 22, "movbe"},
    {1, 0, kEcx, 23, "popcnt"},
    {1, 0, kEcx, 24, "tsc_deadline_timer"},
    {1, 0, kEcx, 25, "aes"},
    {1, 0, kEcx, 26, "xsave"},
    {1, 0, kEcx, 28, "avx"},
    {1, 0, kEcx, 29, "f16c"},
    {1, 0, kEcx, 30, "rdrand"},
    {7, 0, kEbx, 0, "fsgsbase"},
    {7, 0, kEbx, 1, "tsc_adjust"},
    {7, 0, kEbx, 3, "bmi1"},
    {7, 0, kEbx, 5, "avx2"},
    {7, 0, kEbx, 7, "smep"},
    {7, 0, kEbx, 8, "bmi2"},
    {7, 0, kEbx, 9, "erms"},
    {7, 0, kEbx, 10, "invpcid"},
    {7, 0, kEbx, 16, "avx512f"},
    {7, 0, kEbx, 17, "avx512dq"},
    {7, 0, kEbx, 18, "rdseed"},
    {7, 0, kEbx, 19, "adx"},
    {7, 0, kEbx, 20, "smap"},
    {7, 0, kEbx, 21, "avx512ifma"},
    {7, 0, kEbx, 23, "clflushopt"},
    {7, 0, kEbx, 24, "clwb"},
    {7, 0, kEbx, 28, "avx512cd"},
    {7, 0, kEbx, 29, "sha_ni"},
    {7, 0, kEbx, 30, "avx512bw"},
    {7, 0, kEbx, 31, "avx512vl"},
    {7, 0, kEcx, 1, "avx512vbmi"},
    {7, 0, kEcx, 2, "umip"},
    {7, 0, kEcx, 3, "pku"},
    {7, 0, kEcx, 6, "avx512_vbmi2"},
    {7, 0, kEcx, 8, "gfni"},
    {7, 0, kEcx, 9, "vaes"},
    {7, 0, kEcx, 10, "vpclmulqdq"},
    {7, 0, kEcx, 11, "avx512_vnni"},
    {7, 0, kEcx, 12, "avx512_bitalg"},
    {7, 0, kEcx, 14, "avx512_vpopcntdq"},
    {7, 0, kEcx, 16, "la57"},
    {7, 0, kEcx, 22, "rdpid"},
    {7, 0, kEcx, 25, "cldemote"},
    {7, 0, kEcx, 27, "movdiri"},
    {7, 0, kEcx, 28, "movdir64b"},
    {7, 0, kEdx, 4, "fsrm"},
    {7, 0, kEdx, 8, "avx512_vp2intersect"},
    {7, 0, kEdx, 10, "md_clear"},
    {7, 0, kEdx, 14, "serialize"},
    {7, 0, kEdx, 20, "ibt"},
    {7, 0, kEdx, 22, "amx_bf16"},
    {7, 0, kEdx, 23, "avx512_fp16"},
    {7, 0, kEdx, 24, "amx_tile"},
    {7, 0, kEdx, 25, "amx_int8"},
    {7, 0, kEdx, 26, "spec_ctrl"},
    {7, 0, kEdx, 27, "intel_stibp"},
    {7, 0, kEdx, 28, "flush_l1d"},
    {7, 0, kEdx, 29, "arch_capabilities"},
    {7, 0, kEdx, 31, "spec_ctrl_ssbd"},
    {7, 1, kEax, 4, "avx_vnni"},
    {7, 1, kEax, 5, "avx512_bf16"},
    {0xD, 0, kEax, 2, "state of avx"},
    {0xD, 0, kEax, 5, "state of avx512's masks"},
    {0xD, 0, kEax, 6, "state of avx512's upper halves"},
    {0xD, 0, kEax, 7, "state of avx512's upper registers"},
    {0xD, 0, kEax, 9, "state of pku"},
    {0xD, 0, kEax, 17, "state of amx's configuration"},
    {0xD, 0, kEax, 18, "state of amx's tiles"},
    {0xD, 1, kEax, 0, "xsaveopt"},
    {0xD, 1, kEax, 1, "xsavec"},
    {0xD, 1, kEax, 2, "xgetbv1"},
    {0xD, 1, kEax, 3, "xsaves"},
    {0x4000'0001, 0, kEax, 0, "kvm clock"},
    {0x4000'0001, 0, kEax, 3, "kvm clock 2"},
    {0x4000'0001, 0, kEax, 5, "kvm steal time"},
    {0x4000'0001, 0, kEax, 6, "kvm pv eoi"},
    {0x4000'0001, 0, kEax, 7, "kvm pv unhalt"},
    {0x4000'0001, 0, kEax, 9, "kvm pv tlb flush"},
    {0x4000'0001, 0, kEax, 11, "kvm pv send ipi"},
    {0x4000'0001, 0, kEax, 12, "kvm poll control"},
    {0x4000'0001, 0, kEax, 13, "kvm pv sched yield"},
    {0x4000'0001, 0, kEax, 24, "kvm clock stable"},
    {0x8000'0001, 0, kEcx, 5, "abm"},
    {0x8000'0001, 0, kEcx, 6, "sse4a"},
    {0x8000'0001, 0, kEcx, 8, "3dnowprefetch"},
    {0x8000'0001, 0, kEcx, 11, "xop"},
    {0x8000'0001, 0, kEcx, 16, "fma4"},
    {0x8000'0001, 0, kEcx, 22, "topoext"},
    {0x8000'0001, 0, kEdx, 26, "pdpe1gb"},
    {0x8000'0001, 0, kEdx, 27, "rdtscp"},
    {0x8000'0008, 0, kEbx, 0, "clzero"},
    {0x8000'0008, 0, kEbx, 9, "wbnoinvd"},
    {0x8000'0008, 0, kEbx, 12, "ibpb"},
    {0x8000'0008, 0, kEbx, 14, "ibrs"},
    {0x8000'0008, 0, kEbx, 15, "stibp"},
    {0x8000'0008, 0, kEbx, 24, "ssbd"},
};

}  // namespace

std::string feature_names(std::uint32_t function, std::uint32_t index, CpuidRegister word,
                          std::uint32_t bits) {
  std::string names;
  for (unsigned bit = 0; bit < 32; ++bit) {
    if ((bits >> bit & 1) == 0) continue;
    const auto* const known = std::ranges::find_if(kNames, [&](const Name& each) {
      return each.function == function && each.index == index && each.word == word &&
             each.bit == bit;
    });
    if (!names.empty()) names += ", ";
    names += known == std::end(kNames) ? "bit " + std::to_string(bit) : known->name;
  }
  return names;
}

}  // namespace volt::snapshot
