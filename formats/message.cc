#include "formats/message.h"

#include <google/protobuf/stubs/common.h>
#include <google/protobuf/stubs/logging.h>

#include "formats/field.h"
#include "formats/require.h"

namespace volt::formats {

Result<> parse(std::span<const std::byte> body, std::span<const Occurrence> occurrences,
               google::protobuf::MessageLite& message) {
  VOLT_TRY(check_occurrences(body, occurrences));
  // Protobuf would print about strings that are not UTF-8; a library tells its caller instead.
  const google::protobuf::LogSilencer silence;
  static_assert(kMaxBodyBytes <= 0x7FFF'FFFF);
  if (!message.ParseFromArray(body.data(), static_cast<int>(body.size()))) {
    return corrupt("body", "not an encoded message");
  }
  return {};
}

std::vector<std::byte> sealed(FileKind kind, const google::protobuf::MessageLite& message) {
  const std::size_t bytes = message.ByteSizeLong();
  require(bytes <= kMaxBodyBytes, "encode: the message is too long");
  std::vector<std::byte> body(bytes);
  // Deterministic: fields go out in tag order, and no message of ours has a map.
  message.SerializeWithCachedSizesToArray(reinterpret_cast<std::uint8_t*>(body.data()));
  return seal(kind, body);
}

const char* text_fault(const std::string& text, std::size_t max_bytes) {
  if (text.size() > max_bytes) return "too long";
  const int size = static_cast<int>(text.size());
  if (!google::protobuf::internal::IsStructurallyValidUTF8(text.data(), size)) return "not UTF-8";
  return nullptr;
}

}  // namespace volt::formats
