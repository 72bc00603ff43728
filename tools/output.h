// What the command says: results on stdout, everything else on stderr, failures as an exit code,
// one sentence and what to try next.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "tools/options.h"
#include "vmm/os/error.h"

namespace volt::tools {

// Exit codes, as README lists them.
int exit_code(Code code);

// Says what went wrong. `command` is the command's path, for the advice, as is what it was given.
void print_error(const Error& error, std::string_view command, const Arguments& arguments,
                 bool json);

// What is printed of it with --json.
nlohmann::ordered_json error_json(const Error& error, std::string_view command,
                                  const Arguments& arguments);

// One document, whole or not at all: a full disk or a closed pipe is an error.
Result<> print_json(const nlohmann::ordered_json& document);
Result<> print_text(std::string_view text);
// The same into a file, which is replaced.
Result<> write_report(const std::string& path, const nlohmann::ordered_json& document);

// Whether it can stand in a document and in a manifest.
bool is_utf8(std::string_view text);

// A line about long work, where a person is looking (stderr is a terminal, or VOLT_PROGRESS=1).
void progress(std::string_view line);

}  // namespace volt::tools
