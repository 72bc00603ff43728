// A Linux guest's machine between the structs of the kernel and of the devices and the stored
// message, field by field.
#pragma once

#include "formats/machine_state.h"
#include "vmm/pc/linux_machine.h"

namespace volt::snapshot {

formats::MachineState to_message(const pc::LinuxState& state);
// `message` has passed formats::check() and has a Pc. kCorrupt: devices that no machine has.
Result<pc::LinuxState> linux_state_from(const formats::MachineState& message);

}  // namespace volt::snapshot
