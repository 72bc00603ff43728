#include "formats/head.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>

#include "formats/digest.h"
#include "formats/field.h"
#include "formats/little_endian.h"
#include "formats/require.h"

namespace volt::formats {
namespace {

constexpr std::uint16_t kMajor = 1;
constexpr std::uint16_t kMinor = 0;
constexpr std::size_t kSummedHeadBytes = 32;

struct Kind {
  const char* magic;  // 7 characters and a zero byte
  const char* title;
};

Kind describe(FileKind kind) {
  switch (kind) {
    case FileKind::kManifest:
      return {"VOLTMAN", "manifest"};
    case FileKind::kMachineState:
      return {"VOLTCPU", "machine state"};
  }
  require(false, "no such kind of file");
  return {};
}

Result<std::span<const std::byte>> checked_body(FileKind kind, std::span<const std::byte> file) {
  if (file.size() < kHeadBytes) {
    return corrupt("head",
                   join({std::to_string(file.size()), " bytes, not ", std::to_string(kHeadBytes)}));
  }
  const std::byte* head = file.data();
  const Kind expected = describe(kind);
  if (std::memcmp(head, expected.magic, 8) != 0) {
    return corrupt("magic", join({"not a Volt ", expected.title}));
  }
  if (const auto major = load<std::uint16_t>(head + 8); major != kMajor) {
    return bad_field(Code::kUnsupported, "major",
                     join({std::to_string(major), ", this build reads ", std::to_string(kMajor)}));
  }
  if (const auto bits = load<std::uint32_t>(head + 12); bits != 0) {
    return bad_field(Code::kUnsupported, "must_be_zero",
                     join({std::to_string(bits), ", needs a newer build"}));
  }
  const auto body_bytes = load<std::uint64_t>(head + 16);
  if (body_bytes > kMaxBodyBytes) {
    return corrupt("body_bytes",
                   join({std::to_string(body_bytes), ", at most ", std::to_string(kMaxBodyBytes)}));
  }
  const std::span<const std::byte> body = file.subspan(kHeadBytes);
  if (body_bytes != body.size()) {
    return corrupt("body_bytes", join({std::to_string(body_bytes), ", the file has ",
                                       std::to_string(body.size())}));
  }
  if (load<std::uint64_t>(head + 24) != 0) return corrupt("reserved", "not zero");
  const Xxh128 sum = xxh128(file.first(kSummedHeadBytes), body);
  if (!std::ranges::equal(sum, file.subspan(kSummedHeadBytes, sum.size()))) {
    return corrupt("sum", "bytes changed since it was written");
  }
  return body;
}

}  // namespace

std::vector<std::byte> seal(FileKind kind, std::span<const std::byte> body) {
  require(body.size() <= kMaxBodyBytes, "seal: the body is too long");
  std::vector<std::byte> file(kHeadBytes + body.size());
  std::memcpy(file.data(), describe(kind).magic, 8);
  store<std::uint16_t>(file.data() + 8, kMajor);
  store<std::uint16_t>(file.data() + 10, kMinor);
  store<std::uint64_t>(file.data() + 16, body.size());
  const Xxh128 sum = xxh128(std::span(file).first(kSummedHeadBytes), body);
  std::ranges::copy(sum, file.begin() + kSummedHeadBytes);
  std::ranges::copy(body, file.begin() + kHeadBytes);
  return file;
}

Result<std::span<const std::byte>> unseal(FileKind kind, std::span<const std::byte> file,
                                          std::string_view name) {
  const std::span<const std::byte> body = VOLT_TRY_IN(name, checked_body(kind, file));
  return body;
}

}  // namespace volt::formats
