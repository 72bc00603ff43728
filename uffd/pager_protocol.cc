#include "uffd/pager_protocol.h"

#include <algorithm>
#include <cstring>
#include <optional>

#include "uffd/userfaultfd.h"

namespace volt::uffd::pager {
namespace {

constexpr std::uint32_t kMagic = 0x5247'5056;  // "VPGR"
constexpr std::uint16_t kVersion = 1;
constexpr std::uint64_t kMaxAddress = std::uint64_t{1} << 56;

// Errors by their number in a message; a number is never given a second meaning.
constexpr Code kCodes[] = {Code::kSystem,     Code::kCorrupt,      Code::kUnsupported,
                           Code::kInvalid,    Code::kNotFound,     Code::kConflict,
                           Code::kHostUnable, Code::kGuestCrashed, Code::kPageLost,
                           Code::kDeadline,   Code::kInterrupted,  Code::kBusy};

// Descriptors that come with a message: least and most.
struct Fds {
  std::size_t least, most;
};
constexpr std::size_t kTypes = std::variant_size_v<Message>;
constexpr std::array<Fds, kTypes> kFds = [] {
  std::array<Fds, kTypes> fds = {};
  fds[1] = {1, 2};  // welcome
  fds[3] = {1, 1};  // attach
  return fds;
}();

class Writer {
 public:
  void u64(std::uint64_t value) { raw(&value, sizeof value); }
  void u32(std::uint32_t value) { raw(&value, sizeof value); }
  void u16(std::uint16_t value) { raw(&value, sizeof value); }
  void text(const std::string& text, std::size_t most) {
    raw(text.data(), std::min(text.size(), most));
  }
  void raw(const void* from, std::size_t count) {
    bytes_.append(static_cast<const char*>(from), count);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

// Reads past the end give zeros, and are seen in ok().
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes) : bytes_(bytes) {}
  std::uint64_t u64() { return number<std::uint64_t>(); }
  std::uint32_t u32() { return number<std::uint32_t>(); }
  std::uint16_t u16() { return number<std::uint16_t>(); }
  // What is left.
  std::string text() {
    std::string text(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    bytes_ = {};
    return text;
  }
  std::size_t left() const { return bytes_.size(); }
  bool done() const { return ok_ && bytes_.empty(); }

 private:
  template <typename T>
  T number() {
    T value = 0;
    ok_ = ok_ && bytes_.size() >= sizeof value;
    if (!ok_) return 0;
    std::memcpy(&value, bytes_.data(), sizeof value);
    bytes_ = bytes_.subspan(sizeof value);
    return value;
  }
  std::span<const std::byte> bytes_;
  bool ok_ = true;
};

std::unexpected<Error> bad(const std::string& what) {
  return fail(Code::kCorrupt, "pager message: " + what);
}

struct BodyWriter {
  Writer& to;
  void operator()(const Hello& m) const {
    to.u32(static_cast<std::uint32_t>(m.mode));
    to.text(m.image, kMaxImageName);
  }
  void operator()(const Welcome& m) const {
    to.u64(m.image_bytes);
    to.u64(m.unit_bytes);
    for (const std::uint64_t bytes : m.document_bytes) to.u64(bytes);
    to.text(m.image, kMaxImageName);
  }
  void operator()(const Refused& m) const {
    to.u32(static_cast<std::uint32_t>(std::ranges::find(kCodes, m.code) - kCodes));
    to.text(m.why, kMaxText);
  }
  void operator()(const Attach& m) const {
    for (const WireView& view : m.views) {
      to.u64(view.address);
      to.u64(view.bytes);
      to.u64(view.image_offset);
    }
  }
  void operator()(const Lost& m) const {
    to.u64(m.unit);
    to.text(m.why, kMaxText);
  }
  void operator()(const Close& m) const { to.u64(m.unit); }
  void operator()(const Stats& m) const { to.text(m.json, kMaxBodyBytes); }
  template <typename Empty>
  void operator()(const Empty&) const {}
};

Result<Message> read_hello(Reader& from) {
  const std::uint32_t mode = from.u32();
  if (mode < 1 || mode > 3) return bad("hello: mode: " + std::to_string(mode));
  if (from.left() == 0 || from.left() > kMaxImageName) return bad("hello: image: its length");
  return Hello{static_cast<Mode>(mode), from.text()};
}

Result<Message> read_welcome(Reader& from) {
  Welcome message = {.image_bytes = from.u64(),
                     .unit_bytes = from.u64(),
                     .document_bytes = {from.u64(), from.u64()},
                     .image = {}};
  if (from.left() == 0 || from.left() > kMaxImageName) return bad("welcome: image: its length");
  message.image = from.text();
  return message;
}

Result<Message> read_refused(Reader& from) {
  const std::uint32_t code = from.u32();
  if (code >= std::size(kCodes)) return bad("refused: code: " + std::to_string(code));
  return Refused{kCodes[code], from.text()};
}

Result<Message> read_attach(Reader& from) {
  const std::size_t count = from.left() / sizeof(WireView);
  if (count == 0 || count > kMaxViews || from.left() % sizeof(WireView) != 0) {
    return bad("attach: views: their number");
  }
  Attach message;
  for (std::size_t i = 0; i < count; ++i) {
    message.views.push_back(
        {.address = from.u64(), .bytes = from.u64(), .image_offset = from.u64()});
  }
  return message;
}

Result<Message> read_lost(Reader& from) {
  if (from.left() < sizeof(std::uint64_t)) return bad("lost: it is too short");
  const std::uint64_t unit = from.u64();
  return Lost{unit, from.text()};
}

Result<Message> read_any(std::size_t type, Reader& from) {
  switch (type) {
    case 0:
      return read_hello(from);
    case 1:
      return read_welcome(from);
    case 2:
      return read_refused(from);
    case 3:
      return read_attach(from);
    case 4:
      return Attached{};
    case 5:
      return read_lost(from);
    case 6:
      return Close{from.u64()};
    case 7:
      return Forget{};
    case 8:
      return Forgotten{};
    case 9:
      return AskStats{};
    case 10:
      return Stats{from.text()};
    case 11:
      return Ping{};
    default:
      return Pong{};
  }
}

// Whether any two of [first, first + bytes) meet.
bool overlap(std::span<const WireView> views, std::uint64_t WireView::* first) {
  std::vector<WireView> sorted(views.begin(), views.end());
  std::ranges::sort(sorted, {}, first);
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].*first - sorted[i - 1].*first < sorted[i - 1].bytes) return true;
  }
  return false;
}

}  // namespace

std::vector<std::byte> encode(const Message& message, std::size_t fds) {
  Writer body;
  std::visit(BodyWriter{body}, message);
  Writer whole;
  whole.u32(kMagic);
  whole.u16(kVersion);
  whole.u16(static_cast<std::uint16_t>(message.index() + 1));
  whole.u32(static_cast<std::uint32_t>(body.bytes().size()));
  whole.u32(static_cast<std::uint32_t>(fds));
  whole.text(body.bytes(), kMaxBodyBytes);
  const auto bytes = std::as_bytes(std::span(whole.bytes()));
  return {bytes.begin(), bytes.end()};
}

Result<Head> decode_head(std::span<const std::byte> bytes) {
  Reader from(bytes.first(kHeadBytes));
  if (from.u32() != kMagic) return bad("magic: this is no Volt pager or VM");
  if (const auto version = from.u16(); version != kVersion) {
    return fail(Code::kUnsupported, "pager message: version " + std::to_string(version) +
                                        ", this build speaks " + std::to_string(kVersion));
  }
  const std::size_t type = from.u16();
  if (type == 0 || type > kFds.size()) return bad("type: " + std::to_string(type));
  const Head head = {.type = type - 1, .body_bytes = from.u32(), .fds = from.u32()};
  if (head.body_bytes > kMaxBodyBytes) return bad("length: " + std::to_string(head.body_bytes));
  const Fds allowed = kFds[head.type];
  if (head.fds < allowed.least || head.fds > allowed.most) {
    return bad("descriptors: " + std::to_string(head.fds));
  }
  return head;
}

Result<Message> decode_body(const Head& head, std::span<const std::byte> body) {
  Reader from(body);
  Message message = VOLT_TRY(read_any(head.type, from));
  if (!from.done()) return bad("its length does not fit its type");
  return message;
}

Result<std::vector<View>> checked_views(std::span<const WireView> views, std::uint64_t image_bytes,
                                        std::uint64_t unit_bytes) {
  std::vector<View> checked;
  for (const WireView& view : views) {
    if (view.bytes == 0 || view.bytes % unit_bytes != 0 || view.image_offset % unit_bytes != 0 ||
        view.image_offset > image_bytes || view.bytes > image_bytes - view.image_offset) {
      return fail(Code::kInvalid, "a view that is not made of whole units of the image");
    }
    if (view.address == 0 || view.address % kPageBytes != 0 || view.address > kMaxAddress ||
        view.bytes > kMaxAddress - view.address) {
      return fail(Code::kInvalid, "a view at an address that cannot be");
    }
    // An address of the VM's own process, which is never read here.
    checked.push_back(
        {{reinterpret_cast<std::byte*>(view.address), view.bytes}, view.image_offset});
  }
  if (overlap(views, &WireView::address) || overlap(views, &WireView::image_offset)) {
    return fail(Code::kInvalid, "views that overlap");
  }
  return checked;
}

}  // namespace volt::uffd::pager
