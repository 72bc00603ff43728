#include "vmm/pc/aml.h"

namespace volt::pc::aml {
namespace {

constexpr char kNameOp = 0x08;
constexpr char kScopeOp = 0x10;
constexpr char kBufferOp = 0x11;
constexpr char kPackageOp = 0x12;
constexpr char kMethodOp = 0x14;
constexpr char kLocal0 = 0x60;
constexpr char kStoreOp = 0x70;
constexpr char kAndOp = 0x7B;
constexpr char kNullTarget = 0x00;
constexpr char kNotifyOp = static_cast<char>(0x86);
constexpr char kIfOp = static_cast<char>(0xA0);
constexpr char kExtended = 0x5B;
constexpr char kRegionOp = static_cast<char>(0x80);
constexpr char kFieldOp = static_cast<char>(0x81);
constexpr char kDeviceOp = static_cast<char>(0x82);

char byte_of(std::uint64_t value) {
  return static_cast<char>(value & 0xFF);
}

Bytes little_endian(std::uint64_t value, unsigned bytes) {
  Bytes out;
  for (unsigned i = 0; i < bytes; ++i) out += byte_of(value >> (8 * i));
  return out;
}

// `body` behind the length of both: 6 bits in one byte, or 4 and then 8 for each further byte.
Bytes sized(const Bytes& body) {
  if (body.size() + 1 < 0x40) return byte_of(body.size() + 1) + body;
  unsigned more = 1;
  while (body.size() + 1 + more >= std::uint64_t{1} << (4 + 8 * more)) ++more;
  const std::uint64_t length = body.size() + 1 + more;
  Bytes head(1, byte_of(more << 6 | (length & 0xF)));
  return head + little_endian(length >> 4, more) + body;
}

}  // namespace

Bytes integer(std::uint64_t value) {
  if (value <= 1) return Bytes(1, byte_of(value));
  if (value <= 0xFF) return "\x0A" + little_endian(value, 1);
  if (value <= 0xFFFF) return "\x0B" + little_endian(value, 2);
  if (value <= 0xFFFF'FFFF) return "\x0C" + little_endian(value, 4);
  return "\x0E" + little_endian(value, 8);
}

Bytes text(std::string_view value) {
  return "\x0D" + Bytes(value) + '\0';
}

// Three letters of five bits, four digits of four, most significant byte first.
Bytes eisa_id(std::string_view id) {
  std::uint32_t value = 0;
  for (const char c : id.substr(0, 3)) value = value << 5 | (static_cast<std::uint32_t>(c) & 0x1F);
  for (const char c : id.substr(3)) {
    value = value << 4 | static_cast<std::uint32_t>(c <= '9' ? c - '0' : c - 'A' + 10);
  }
  Bytes out = "\x0C";
  for (int shift = 24; shift >= 0; shift -= 8) out += byte_of(value >> shift);
  return out;
}

Bytes buffer(std::string_view bytes) {
  return kBufferOp + sized(integer(bytes.size()) + Bytes(bytes));
}

Bytes package(std::initializer_list<Bytes> elements) {
  Bytes body(1, byte_of(elements.size()));
  for (const Bytes& element : elements) body += element;
  return kPackageOp + sized(body);
}

Bytes path(std::string_view name) {
  Bytes out;
  if (name.starts_with('\\')) {
    out += '\\';
    name.remove_prefix(1);
  }
  const std::size_t dot = name.find('.');
  if (dot != std::string_view::npos) out += '\x2E';  // two segments follow
  for (std::string_view rest = name;;) {
    const std::size_t end = rest.find('.');
    Bytes segment(rest.substr(0, end));
    segment.resize(4, '_');
    out += segment;
    if (end == std::string_view::npos) return out;
    rest.remove_prefix(end + 1);
  }
}

Bytes name(std::string_view name, const Bytes& value) {
  return kNameOp + path(name) + value;
}
Bytes scope(std::string_view name, const Bytes& body) {
  return kScopeOp + sized(path(name) + body);
}
Bytes device(std::string_view name, const Bytes& body) {
  return Bytes{kExtended, kDeviceOp} + sized(path(name) + body);
}
Bytes method(std::string_view name, unsigned arguments, const Bytes& body) {
  constexpr unsigned kSerialized = 8;
  return kMethodOp + sized(path(name) + byte_of(arguments | kSerialized) + body);
}

Bytes port_field(std::string_view region, std::uint16_t port, std::string_view field) {
  constexpr char kSystemIo = 1;
  constexpr char kByteAccess = 1;
  const Bytes declared =
      Bytes{kExtended, kRegionOp} + path(region) + kSystemIo + integer(port) + integer(1);
  const Bytes eight_bits(1, 8);
  return declared + Bytes{kExtended, kFieldOp} +
         sized(path(region) + kByteAccess + path(field) + eight_bits);
}

Bytes if_bit(std::string_view value, unsigned bit, const Bytes& body) {
  const Bytes masked = kAndOp + Bytes(value) + integer(std::uint64_t{1} << bit) + kNullTarget;
  return kIfOp + sized(masked + body);
}
Bytes store(const Bytes& value, const Bytes& target) {
  return kStoreOp + value + target;
}
Bytes notify(std::string_view object, std::uint8_t value) {
  return kNotifyOp + path(object) + integer(value);
}
Bytes local0() {
  return Bytes(1, kLocal0);
}

Bytes resources(std::initializer_list<Bytes> descriptors) {
  Bytes list;
  for (const Bytes& descriptor : descriptors) list += descriptor;
  return buffer(list + Bytes{0x79, 0});  // the end; no checksum
}

Bytes memory32(std::uint32_t base, std::uint32_t bytes) {
  constexpr char kReadWrite = 1;
  return static_cast<char>(0x86) + little_endian(9, 2) + kReadWrite + little_endian(base, 4) +
         little_endian(bytes, 4);
}

Bytes interrupt(std::uint32_t number) {
  constexpr char kConsumerEdgeHighExclusive = 0b0011;
  return static_cast<char>(0x89) + little_endian(6, 2) + kConsumerEdgeHighExclusive + '\x01' +
         little_endian(number, 4);
}

Bytes ports(std::uint16_t base, std::uint8_t count) {
  constexpr char kDecodesAllBits = 1;
  constexpr char kAlignment = 1;
  return Bytes{0x47, kDecodesAllBits} + little_endian(base, 2) + little_endian(base, 2) +
         kAlignment + byte_of(count);
}

}  // namespace volt::pc::aml
