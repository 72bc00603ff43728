#include "snapshot/sandbox.h"

#include <cstring>

#include "snapshot/linux_codec.h"
#include "snapshot/state_codec.h"
#include "vmm/identity.h"
#include "vmm/os/fault_guard.h"

namespace volt::snapshot {
namespace {

std::string as_string(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

Sandbox::Facts facts_of(const vmm::GuestImage& image, const vmm::BootConfig& config,
                        const vmm::Booted& booted) {
  Sandbox::Facts facts;
  const guest_abi::Note& note = image.note();
  formats::v1::Guest& guest = facts.guest;
  guest.set_kind("micro");
  guest.set_image_sha256(as_string(formats::sha256(image.file())));
  guest.set_workload(workload_name(config.workload));
  guest.set_seed(config.seed);
  guest.set_working_set_base(booted.ready.working_set_base);
  guest.set_working_set_bytes(booted.ready.working_set_bytes);
  guest.set_mutable_base(note.mutable_base);
  guest.set_mutable_bytes(note.mutable_bytes);
  if (note.resume_entry != 0) {
    facts.resume.emplace();
    facts.resume->set_entry(note.resume_entry);
    facts.resume->set_stack_top(note.stack_top);
    facts.resume->set_argument(guest_abi::kWindowBase);
  }
  facts.boot_us = booted.phases.total_us();
  return facts;
}

}  // namespace

std::optional<formats::Sha256> Sandbox::parent() const {
  formats::Sha256 digest;
  if (facts_.parent.size() != digest.size()) return std::nullopt;
  std::memcpy(digest.data(), facts_.parent.data(), digest.size());
  return digest;
}

Result<vmm::Reply> Sandbox::call(const vmm::Call& call, vmm::Deadline deadline,
                                 const vmm::HostServices& services) {
  // The guest sets its clocks when it first runs, which may be long after it was restored.
  if (!identity_checked_) {
    machine_->exchange().set_clocks(vmm::wall_clock_ns(), vmm::monotonic_clock_ns());
  }
  VOLT_TRY(vmm::begin_call(*machine_, call));
  Result<vmm::Reply> reply = vmm::finish_call(*machine_, deadline, services);
  if (!reply) return std::unexpected(explained(std::move(reply).error()));
  if (!identity_checked_) {
    if (!machine_->exchange().identity_adopted()) {
      return fail(Code::kGuestCrashed,
                  "the guest went on without taking over its new identity, so it may share secrets "
                  "with its siblings");
    }
    identity_checked_ = true;
  }
  VOLT_TRY(vmm::check_status(*reply));
  return reply;
}

const vmm::GuestMemory& Sandbox::memory() const {
  return machine_ != nullptr ? machine_->memory() : linux_->memory();
}

Result<std::uint64_t> Sandbox::tsc_khz() const {
  return machine_ != nullptr ? machine_->tsc_khz() : linux_->pc().tsc_khz();
}

std::string Sandbox::generation() const {
  if (machine_ == nullptr) return facts_.generation;
  const auto& generation = machine_->exchange().identity().generation;
  return as_string(std::as_bytes(std::span(generation)));
}

Result<formats::MachineState> Sandbox::read_state(const vmm::Kvm& kvm) {
  formats::MachineState state;
  if (machine_ != nullptr) {
    VOLT_TRY(machine_->quiesce());
    const vmm::StateSources sources = VOLT_TRY(vmm::StateSources::probe(kvm));
    for (const vmm::CpuState& cpu : VOLT_TRY(machine_->save(sources))) {
      *state.add_vcpus() = to_message(cpu);
    }
  } else {
    VOLT_TRY(linux_->pc().pause());
    if (const auto ended = linux_->pc().outcome()) {
      if (!*ended) return std::unexpected(explained(ended->error()));
      return fail(Code::kGuestCrashed, "the guest ended while it was captured");
    }
    state = to_message(VOLT_TRY(linux_->save(kvm)));
  }
  if (facts_.resume) *state.mutable_resume() = *facts_.resume;
  VOLT_TRY(formats::check(state));
  return state;
}

bool Sandbox::shows_snapshot() const {
  const bool gave_back = linux_ != nullptr && linux_->gave_memory_back();
  return origin_.memory == Origin::Memory::kShown && !gave_back;
}

// The pager knows which page it could not give; a mapped file that was cut short has lost its end.
bool Sandbox::lost_a_page() const {
  if (pager_.is_served()) return pager_.failure().has_value();
  for (const vmm::GuestMemory::Region& region : memory().regions()) {
    if (region.backed.empty()) continue;
    const auto& [offset, bytes] = region.backed.back();
    std::byte last[1];
    if (!guarded_copy(last, region.host.bytes().subspan(offset + bytes - 1, 1))) return true;
  }
  return false;
}

// A lost page stops the guest, unless it is one of its page tables and KVM walks them in software:
// there the guest takes a page fault, and crashes for a reason that is not its own.
Error Sandbox::explained(Error error) const {
  if (error.code == Code::kGuestCrashed && lost_a_page()) {
    error.code = Code::kPageLost;
    error.context.insert(0, "a page of guest memory cannot be had, and without it ");
  }
  if (error.code == Code::kPageLost) {
    if (const auto why = pager_.failure()) error.context += ": " + why->context;
  }
  return error;
}

Result<BootedSandbox> boot_sandbox(const vmm::Kvm& kvm, const BootRequest& request,
                                   vmm::Deadline deadline) {
  const vmm::GuestImage image = VOLT_TRY(vmm::GuestImage::parse(request.image));
  vmm::Booted booted = VOLT_TRY(vmm::boot(kvm, image, request.config, deadline));
  Sandbox::Facts facts = facts_of(image, request.config, booted);
  return BootedSandbox{
      std::make_unique<Sandbox>(PagedClone{}, std::move(booted.machine), std::move(facts)),
      booted.phases};
}

const char* workload_name(guest_abi::Workload workload) {
  switch (workload) {
    case guest_abi::Workload::kEcho:
      return "echo";
    case guest_abi::Workload::kKv:
      return "kv";
  }
  return "?";
}

Result<guest_abi::Workload> parse_workload(std::string_view name) {
  for (const auto workload : {guest_abi::Workload::kEcho, guest_abi::Workload::kKv}) {
    if (name == workload_name(workload)) return workload;
  }
  return fail(Code::kInvalid, "workload '" + std::string(name) + "': echo or kv");
}

}  // namespace volt::snapshot
