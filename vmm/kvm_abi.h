// The kernel's KVM interface, right in C++. Debian 12's headers declare flexible arrays with a
// macro whose empty member has size 1 in C++; sizeof(kvm_cpuid2) becomes 12 instead of 8, and since
// the size is part of an ioctl's number, KVM_SET_CPUID2, KVM_SET_MSRS and others get numbers no
// kernel knows. Everything of ours includes KVM through this file.
#pragma once

#include <linux/stddef.h>
#undef __DECLARE_FLEX_ARRAY
#define __DECLARE_FLEX_ARRAY(TYPE, NAME) TYPE NAME[0]

#if defined(__clang__)
#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wzero-length-array"
#endif
#include <linux/kvm.h>
#if defined(__clang__)
#pragma clang diagnostic pop
#endif

static_assert(sizeof(kvm_cpuid2) == 8);
static_assert(sizeof(kvm_msrs) == 8);
static_assert(sizeof(kvm_msr_list) == 4);
static_assert(sizeof(kvm_irq_routing) == 8);
static_assert(sizeof(kvm_xsave) == 4096);
static_assert(KVM_SET_CPUID2 == 0x4008ae90);
static_assert(KVM_GET_SUPPORTED_CPUID == 0xc008ae05);
