#include "tools/guest_call.h"

#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>

#include "formats/digest.h"
#include "tools/size.h"

namespace volt::tools {
namespace {

using guest_abi::Function;

enum class Takes { kNothing, kNumbers, kText, kAsk, kCrash };

struct Known {
  const char* name;
  Function function;
  Takes takes;
  std::size_t least, most;  // operands
};

constexpr std::size_t kMany = 100'000;
constexpr Known kFunctions[] = {
    {"health", Function::kHealth, Takes::kNothing, 0, 0},
    {"echo", Function::kEcho, Takes::kText, 0, kMany},
    {"get", Function::kGet, Takes::kNumbers, 1, 1},
    {"put", Function::kPut, Takes::kNumbers, 2, 2},
    {"scan", Function::kScan, Takes::kNumbers, 2, 2},
    {"touch", Function::kTouch, Takes::kNumbers, 1, kMany},
    {"write", Function::kWrite, Takes::kNumbers, 3, 3},
    {"random", Function::kRandom, Takes::kNumbers, 1, 1},
    {"now", Function::kNow, Takes::kNothing, 0, 0},
    {"ask", Function::kAskHost, Takes::kAsk, 1, kMany},
    {"spin", Function::kSpin, Takes::kNothing, 0, 0},
    {"crash", Function::kCrash, Takes::kCrash, 1, 1},
};

struct Word {
  const char* name;
  std::uint64_t value;
};
constexpr Word kCrashKinds[] = {{"undefined", 1}, {"null", 2},  {"divide", 3},  {"write-code", 4},
                                {"run-data", 5},  {"stack", 6}, {"unbacked", 7}};
constexpr Word kHostFunctions[] = {{"log", 1}, {"now", 2}, {"random", 3}};

Result<std::uint64_t> look_up(std::span<const Word> words, const std::string& name) {
  std::string all;
  for (const Word& word : words) {
    if (name == word.name) return word.value;
    all.append(all.empty() ? "" : ", ").append(word.name);
  }
  return fail(Code::kInvalid, "'" + name + "': one of " + all);
}

void append(std::vector<std::byte>& bytes, std::uint64_t word) {
  const auto raw = std::as_bytes(std::span(&word, 1));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

void append_text(std::vector<std::byte>& bytes, std::span<const std::string> words) {
  std::string text;
  for (const std::string& word : words) text.append(text.empty() ? "" : " ").append(word);
  const auto raw = std::as_bytes(std::span(text));
  bytes.insert(bytes.end(), raw.begin(), raw.end());
}

const Known* known(Function function) {
  for (const Known& each : kFunctions) {
    if (each.function == function) return &each;
  }
  return nullptr;
}

std::uint64_t word_at(const vmm::Reply& reply, std::size_t index) {
  std::uint64_t word = 0;
  if (reply.data.size() >= (index + 1) * 8) std::memcpy(&word, reply.data.data() + index * 8, 8);
  return word;
}

std::string hex(std::uint64_t word) {
  char text[24];
  std::snprintf(text, sizeof text, "0x%016llx", static_cast<unsigned long long>(word));
  return text;
}

bool is_text(const vmm::Reply& reply) {
  for (const std::byte b : reply.data) {
    const auto c = std::to_integer<unsigned char>(b);
    if (c < 0x20 && c != '\n' && c != '\t') return false;
  }
  return true;
}

}  // namespace

const char kFunctionHelp[] =
    "functions of the built-in guest (pages and records count from 0 in the working set):\n"
    "  health                 identity, and the checksum of the first page\n"
    "  echo TEXT              TEXT again\n"
    "  get N                  the value of record N\n"
    "  put N VALUE            sets it; answers the value it had\n"
    "  scan FIRST COUNT       reads whole pages; answers their checksum\n"
    "  touch PAGE...          reads and writes a word of each page\n"
    "  write FIRST COUNT SEED fills pages from a seed\n"
    "  random BYTES           from the guest's own generator\n"
    "  now                    by the guest's own clock\n"
    "  ask log TEXT|now|random  makes the guest call the host back\n"
    "  spin                   never answers\n"
    "  crash undefined|null|divide|write-code|run-data|stack|unbacked\n";

vmm::Call make_call(Function function, std::span<const std::uint64_t> words) {
  vmm::Call call = {.function = function, .arguments = {}};
  for (const std::uint64_t word : words) append(call.arguments, word);
  return call;
}

Result<vmm::Call> parse_call(std::span<const std::string> words) {
  const Known* match = nullptr;
  std::string all;
  for (const Known& each : kFunctions) {
    if (words[0] == each.name) match = &each;
    all.append(all.empty() ? "" : ", ").append(each.name);
  }
  if (match == nullptr) {
    return fail(Code::kInvalid, "function '" + words[0] + "': one of " + all);
  }
  const auto operands = words.subspan(1);
  if (operands.size() < match->least || operands.size() > match->most) {
    return fail(Code::kInvalid, "function '" + words[0] + "' does not take " +
                                    std::to_string(operands.size()) + " arguments");
  }
  vmm::Call call = {.function = match->function, .arguments = {}};
  switch (match->takes) {
    case Takes::kNothing:
      break;
    case Takes::kText:
      append_text(call.arguments, operands);
      break;
    case Takes::kNumbers:
      for (const std::string& operand : operands) {
        append(call.arguments, VOLT_TRY(parse_number(operand, words[0])));
      }
      break;
    case Takes::kAsk:
      append(call.arguments, VOLT_TRY(look_up(kHostFunctions, operands[0])));
      append_text(call.arguments, operands.subspan(1));
      break;
    case Takes::kCrash:
      append(call.arguments, VOLT_TRY(look_up(kCrashKinds, operands[0])));
      break;
  }
  return call;
}

Result<guest_abi::HealthReply> health_of(const vmm::Reply& reply) {
  guest_abi::HealthReply health;
  if (reply.data.size() < sizeof health) {
    return fail(Code::kGuestCrashed, "the guest's health answer is too short");
  }
  std::memcpy(&health, reply.data.data(), sizeof health);
  return health;
}

nlohmann::ordered_json reply_json(const vmm::Call& call, const vmm::Reply& reply) {
  const Known* const function = known(call.function);
  nlohmann::ordered_json json = {{"function", function == nullptr ? "?" : function->name},
                                 {"checksum", hex(reply.checksum)},
                                 {"words_read", reply.words}};
  switch (call.function) {
    case Function::kGet:
    case Function::kPut:
      json["value"] = word_at(reply, 0);
      break;
    case Function::kNow:
      json["wall_ns"] = word_at(reply, 0);
      json["monotonic_ns"] = word_at(reply, 1);
      break;
    case Function::kHealth:
      json["generation"] = hex(word_at(reply, 0)) + hex(word_at(reply, 1)).substr(2);
      json["working_set_bytes"] = word_at(reply, 2);
      json["calls_served"] = word_at(reply, 3);
      json["random"] = hex(word_at(reply, 4));
      break;
    case Function::kEcho:
      if (is_text(reply)) {
        json["text"] =
            std::string(reinterpret_cast<const char*>(reply.data.data()), reply.data.size());
        break;
      }
      [[fallthrough]];
    default:
      json["data_hex"] = formats::to_hex(reply.data);
  }
  return json;
}

std::string reply_text(const vmm::Call& call, const vmm::Reply& reply) {
  const nlohmann::ordered_json json = reply_json(call, reply);
  if (json.contains("text")) return json["text"].get<std::string>() + "\n";
  std::string text;
  for (const auto& [key, value] : json.items()) {
    if (key == "function" || value == "") continue;
    text += text.empty() ? "" : "  ";
    text += key + " " + (value.is_string() ? value.get<std::string>() : value.dump());
  }
  return text + "\n";
}

vmm::HostServices print_guest_log() {
  vmm::HostServices services;
  services.log = [](std::string_view line) {
    std::fputs("guest: ", stderr);
    for (const char c : line) std::fputc(c >= 0x20 && c != 0x7F ? c : '?', stderr);
    std::fputc('\n', stderr);
  };
  return services;
}

}  // namespace volt::tools
