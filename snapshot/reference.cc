#include "snapshot/reference.h"

#include <algorithm>

namespace volt::snapshot {
namespace {

constexpr std::size_t kMaxWord = 63;
constexpr std::string_view kDigestPrefix = "sha256:";

bool is_word(std::string_view word) {
  const auto alphanumeric = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
  };
  return !word.empty() && word.size() <= kMaxWord && alphanumeric(word.front()) &&
         std::all_of(word.begin(), word.end(),
                     [&](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

std::unexpected<Error> bad(std::string_view text, const char* what) {
  return fail(Code::kInvalid, "snapshot reference '" + std::string(text) + "': " + what);
}

Result<formats::Sha256> digest_of(std::string_view text, std::string_view part) {
  const Result<formats::Sha256> digest =
      formats::sha256_from_hex(part.substr(kDigestPrefix.size()));
  if (!digest) return bad(text, "a digest is 'sha256:' and 64 hex digits");
  return digest;
}

}  // namespace

Result<Reference> Reference::parse(std::string_view text) {
  Reference reference;
  if (text.starts_with(kDigestPrefix)) {
    reference.digest = VOLT_TRY(digest_of(text, text));
    return reference;
  }
  std::string_view rest = text;
  if (const std::size_t at = rest.find('@'); at != std::string_view::npos) {
    const std::string_view part = rest.substr(at + 1);
    if (!part.starts_with(kDigestPrefix))
      return bad(text, "after '@' comes 'sha256:' and a digest");
    reference.digest = VOLT_TRY(digest_of(text, part));
    rest = rest.substr(0, at);
  }
  const std::size_t colon = rest.find(':');
  reference.name = rest.substr(0, colon);
  reference.tag = colon == std::string_view::npos ? "latest" : rest.substr(colon + 1);
  if (!is_word(reference.name) || !is_word(reference.tag)) {
    return bad(text,
               "names and tags are 1 to 63 letters, digits, '.', '_' or '-', and begin with a "
               "letter or digit");
  }
  return reference;
}

std::string Reference::text() const {
  if (name.empty()) return std::string(kDigestPrefix) + formats::to_hex(*digest);
  return name + ":" + tag;
}

}  // namespace volt::snapshot
