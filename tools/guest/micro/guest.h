// All state that outlives a request, in one object that shares its page with the top of the stack:
// a restored guest pays for that page once.
#pragma once

#include <cstdint>

#include "tools/guest/micro/clock.h"
#include "tools/guest/micro/generator.h"
#include "tools/guest/micro/kv.h"
#include "vmm/guest_abi.h"

namespace volt::guest {

struct Guest {
  guest_abi::ControlPage* page;  // the window's first page; a page of our own without a host
  std::uint64_t window_bytes;    // what may be used from `page` on
  bool has_host;                 // booted by Volt: its ports mean something
  guest_abi::Workload workload;
  std::uint64_t ram_bytes;
  std::uint64_t generation[2];
  std::uint64_t calls_served;
  Clock clock;
  Generator generator;
  WorkingSet set;
};

// Whether the guest can be what `boot` asks for. If so, fills the working set.
bool start_workload(Guest& guest, const guest_abi::BootConfig& boot);

// Becomes the VM that page->identity says: entropy, clock, generation. Acknowledges it.
void adopt_identity(Guest& guest);

// Serves Volt's requests for ever.
[[noreturn]] void serve(Guest& guest);

}  // namespace volt::guest
