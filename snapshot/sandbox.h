// One running virtual machine: booted, or restored from a snapshot.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "formats/digest.h"
#include "formats/machine_state.h"
#include "formats/manifest.h"
#include "snapshot/loader.h"
#include "vmm/boot.h"
#include "vmm/call.h"
#include "vmm/pc/linux_machine.h"

namespace volt::snapshot {

class Sandbox {
 public:
  // What there is to know about a guest besides its machine, as a manifest keeps it.
  struct Facts {
    formats::v1::Guest guest;
    std::optional<formats::v1::Resume> resume;  // absent: it goes on exactly where it stopped
    std::string parent;                         // digest of the snapshot it came from
    std::uint64_t boot_us = 0;
    std::string generation;  // of a Linux guest; a micro guest's is in its window
  };

  // Where its memory came from, for who captures it.
  struct Origin {
    enum class Memory {
      kItsOwn,   // booted
      kShown,    // a page that this process does not have to itself is `snapshot`'s (map, uffd)
      kCopied,   // `snapshot`'s, checked and copied before the guest ran: every page is its own
      kForeign,  // filled by a handler that is not ours, so whose pages these are says nothing;
                 // `backed` of its regions is all that may hold something
    };
    Memory memory = Memory::kItsOwn;
    // Kept open, so it may be removed meanwhile. Null if the guest was booted.
    std::shared_ptr<const OpenedSnapshot> snapshot;
    std::uint64_t unit_bytes = formats::kDefaultUnitBytes;
  };

  // All memory is its own.
  Sandbox(PagedClone pager, std::unique_ptr<vmm::Machine> machine, Facts facts)
      : Sandbox(std::move(pager), std::move(machine), std::move(facts), Origin{}) {}
  Sandbox(PagedClone pager, std::unique_ptr<vmm::Machine> machine, Facts facts, Origin origin)
      : pager_(std::move(pager)),
        machine_(std::move(machine)),
        facts_(std::move(facts)),
        origin_(std::move(origin)) {}

  // A Linux guest.
  Sandbox(PagedClone pager, std::unique_ptr<pc::LinuxMachine> machine, Facts facts, Origin origin)
      : pager_(std::move(pager)),
        linux_(std::move(machine)),
        facts_(std::move(facts)),
        origin_(std::move(origin)) {}

  Sandbox(const Sandbox&) = delete;
  Sandbox& operator=(const Sandbox&) = delete;
  ~Sandbox() { pager_.forget(); }

  // Of a micro guest.
  vmm::Machine& machine() { return *machine_; }
  const vmm::Machine& machine() const { return *machine_; }
  // Null for a micro guest.
  pc::LinuxMachine* linux_machine() { return linux_.get(); }

  const vmm::GuestMemory& memory() const;
  Result<std::uint64_t> tsc_khz() const;
  std::string generation() const;
  // All but memory, of a sandbox brought to rest.
  Result<formats::MachineState> read_state(const vmm::Kvm& kvm);
  // Whether a page that this process does not have to itself is the snapshot's.
  bool shows_snapshot() const;
  const Facts& facts() const { return facts_; }
  Facts& facts() { return facts_; }
  const PagedClone& pager() const { return pager_; }
  const Origin& origin() const { return origin_; }
  // The snapshot it was restored from, if it was.
  std::optional<formats::Sha256> parent() const;

  // For as long as its memory is there.
  void keep(std::unique_ptr<Populating> populating) { populating_ = std::move(populating); }
  uffd::Recording take_recording() { return pager_.take_recording(); }

  // One call into the guest. The first one fails unless the guest has taken over the identity it
  // was given. A page that cannot be had is reported with the pager's reason.
  Result<vmm::Reply> call(const vmm::Call& call, vmm::Deadline deadline,
                          const vmm::HostServices& services);
  // An error of this sandbox's memory, with the reason why a page could not be had.
  Error explained(Error error) const;

 private:
  bool lost_a_page() const;

  // Destroyed last to first, after the pager has forgotten it: the VM and its memory, then the
  // memory's place at the pager.
  PagedClone pager_;
  std::unique_ptr<vmm::Machine> machine_;
  std::unique_ptr<pc::LinuxMachine> linux_;  // one of the two
  Facts facts_;
  Origin origin_;
  std::unique_ptr<Populating> populating_;
  bool identity_checked_ = false;
};

struct BootRequest {
  std::span<const std::byte> image;
  vmm::BootConfig config;
};

struct BootedSandbox {
  std::unique_ptr<Sandbox> sandbox;
  vmm::BootPhases phases;
};

// Boots a micro guest to its ready point.
Result<BootedSandbox> boot_sandbox(const vmm::Kvm& kvm, const BootRequest& request,
                                   vmm::Deadline deadline);

const char* workload_name(guest_abi::Workload workload);
Result<guest_abi::Workload> parse_workload(std::string_view name);

}  // namespace volt::snapshot
