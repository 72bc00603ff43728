// Guest functions as people call them: `get 5`, `touch 1 2 3`, `echo hello`; and their answers.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "vmm/call.h"

namespace volt::tools {

// The call that words like {"put", "5", "99"} mean. kInvalid lists the functions, or says what is
// wrong with the arguments.
Result<vmm::Call> parse_call(std::span<const std::string> words);

// One line about each function, for help texts.
extern const char kFunctionHelp[];

// The answer as a document and as text.
nlohmann::ordered_json reply_json(const vmm::Call& call, const vmm::Reply& reply);
std::string reply_text(const vmm::Call& call, const vmm::Reply& reply);

// Typed looks at an answer; kGuestCrashed if it is too short to be one.
Result<guest_abi::HealthReply> health_of(const vmm::Reply& reply);

// Arguments of 64-bit words.
vmm::Call make_call(guest_abi::Function function, std::span<const std::uint64_t> words);

// Guest log lines go to stderr.
vmm::HostServices print_guest_log();

}  // namespace volt::tools
