// The command line: a table of commands, each with its options; parsing and help come from the
// table.
#pragma once

#include <initializer_list>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "vmm/os/error.h"

namespace volt::tools {

struct Option {
  const char* name;   // with its dashes
  const char* value;  // what it takes, "" for a switch
  const char* help;
};

// What one invocation gave.
class Arguments {
 public:
  bool has(std::string_view option) const { return values_.contains(std::string(option)); }
  // The last value given, or `otherwise`.
  std::string get(std::string_view option, std::string_view otherwise = "") const;
  // Every value given.
  std::vector<std::string> all(std::string_view option) const;
  // As a size or a number; `otherwise` where it was not given.
  Result<std::uint64_t> size(std::string_view option, std::uint64_t otherwise) const;
  Result<std::uint64_t> number(std::string_view option, std::uint64_t otherwise) const;

  const std::vector<std::string>& positional() const { return positional_; }
  bool json() const { return has("--json"); }

 private:
  friend Result<Arguments> parse(std::span<const Option>, std::span<char* const>);
  std::map<std::string, std::vector<std::string>> values_;
  std::vector<std::string> positional_;
};

// Options may stand anywhere before `--`; `--name value` and `--name=value` mean the same.
Result<Arguments> parse(std::span<const Option> options, std::span<char* const> words);

// kInvalid with the first of them that was given, and why it may not be.
Result<> refuse(std::initializer_list<const char*> options, const Arguments& arguments,
                std::string_view why);

struct Command {
  const char* path;      // "snapshot create"
  const char* operands;  // "REF", "[FUNCTION ARGS]"
  const char* summary;   // one line
  const char* details;   // more lines, each ending in a newline; may be empty
  const char* example;
  std::span<const Option> options;
  int least, most;  // how many operands; most < 0: any number
  Result<int> (*run)(const Arguments&);
};

// Options every command has.
std::span<const Option> common_options();
std::string help_of(const Command& command);

}  // namespace volt::tools
