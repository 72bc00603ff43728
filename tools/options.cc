#include "tools/options.h"

#include <algorithm>

#include "tools/size.h"

namespace volt::tools {
namespace {

constexpr Option kCommon[] = {
    {"--json", "", "print one JSON document on stdout; errors as one JSON line on stderr"},
    {"--help", "", "print this"},
};

const Option* find(std::span<const Option> options, std::string_view name) {
  for (const std::span<const Option> table : {options, common_options()}) {
    for (const Option& option : table) {
      if (name == option.name) return &option;
    }
  }
  return nullptr;
}

std::string column(const Option& option) {
  std::string text = option.name;
  if (*option.value != '\0') text.append(" ").append(option.value);
  return text;
}

}  // namespace

std::span<const Option> common_options() {
  return kCommon;
}

std::string Arguments::get(std::string_view option, std::string_view otherwise) const {
  const auto at = values_.find(std::string(option));
  return at == values_.end() ? std::string(otherwise) : at->second.back();
}

std::vector<std::string> Arguments::all(std::string_view option) const {
  const auto at = values_.find(std::string(option));
  return at == values_.end() ? std::vector<std::string>{} : at->second;
}

Result<std::uint64_t> Arguments::size(std::string_view option, std::uint64_t otherwise) const {
  if (!has(option)) return otherwise;
  return parse_size(get(option), option);
}

Result<std::uint64_t> Arguments::number(std::string_view option, std::uint64_t otherwise) const {
  if (!has(option)) return otherwise;
  return parse_number(get(option), option);
}

Result<> refuse(std::initializer_list<const char*> options, const Arguments& arguments,
                std::string_view why) {
  for (const char* option : options) {
    if (arguments.has(option)) return fail(Code::kInvalid, option + std::string(why));
  }
  return {};
}

Result<Arguments> parse(std::span<const Option> options, std::span<char* const> words) {
  Arguments arguments;
  bool only_operands = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    const std::string word = words[i];
    if (!only_operands && word == "--") {
      only_operands = true;
      continue;
    }
    if (only_operands || word.size() < 2 || word[0] != '-') {
      arguments.positional_.push_back(word);
      continue;
    }
    const std::size_t equals = word.starts_with("--") ? word.find('=') : std::string::npos;
    const std::string name = word.substr(0, equals);
    const Option* option = find(options, name == "-h" ? "--help" : name);
    if (option == nullptr) {
      return fail(Code::kInvalid,
                  "unknown option '" + name + "'; an operand that begins with '-' goes after '--'");
    }
    const bool takes_value = *option->value != '\0';
    std::string value;
    if (equals != std::string::npos) {
      if (!takes_value) return fail(Code::kInvalid, "option '" + name + "' takes no value");
      value = word.substr(equals + 1);
    } else if (takes_value) {
      if (++i == words.size()) {
        return fail(Code::kInvalid, "option '" + name + "' wants " + option->value);
      }
      value = words[i];
    }
    arguments.values_[option->name].push_back(value);
  }
  return arguments;
}

std::string help_of(const Command& command) {
  std::string text = std::string("usage: volt ") + command.path;
  if (!command.options.empty()) text += " [OPTIONS]";
  if (*command.operands != '\0') text.append(" ").append(command.operands);
  text.append("\n\n").append(command.summary).append("\n");
  if (*command.details != '\0') text.append("\n").append(command.details);
  text.append("\nexample:\n  ").append(command.example).append("\n\noptions:\n");
  std::size_t width = 0;
  for (const auto table : {command.options, common_options()}) {
    for (const Option& option : table) width = std::max(width, column(option).size());
  }
  for (const auto table : {command.options, common_options()}) {
    for (const Option& option : table) {
      std::string left = column(option);
      left.resize(width + 2, ' ');
      text.append("  ").append(left).append(option.help).append("\n");
    }
  }
  return text;
}

}  // namespace volt::tools
