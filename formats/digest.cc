#include "formats/digest.h"

// The low-level SHA-256 calls are deprecated in OpenSSL 3, and meant here all the same: their
// successors (EVP, and SHA256() which is built on it) load providers on first use, hundreds of
// microseconds in a process that restores a whole machine in four hundred.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <cstring>
#include <new>
#include <type_traits>

#include "formats/require.h"
#include "formats/wide_xxh3.h"

namespace volt::formats {
namespace {

// Sums of less take nanoseconds either way.
constexpr std::size_t kWorthWide = 1024;

bool has_wide_vectors() {
  static const bool has = __builtin_cpu_supports("avx2") != 0;
  return has;
}

Xxh128 canonical(XXH128_hash_t hash) {
  XXH128_canonical_t form;
  XXH128_canonicalFromHash(&form, hash);
  Xxh128 out;
  static_assert(sizeof form.digest == sizeof out);
  std::memcpy(out.data(), form.digest, out.size());
  return out;
}

// -1 for what is no lower-case hex digit.
int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

SHA256_CTX* context_of(std::byte* state) {
  return std::launder(reinterpret_cast<SHA256_CTX*>(state));
}

}  // namespace

Xxh128 xxh128(std::span<const std::byte> bytes, std::uint64_t seed) {
  if (bytes.size() >= kWorthWide && has_wide_vectors()) {
    const WideXxh3 hash = wide_xxh3(bytes.data(), bytes.size(), seed);
    return canonical({hash.low, hash.high});
  }
  return canonical(XXH3_128bits_withSeed(bytes.data(), bytes.size(), seed));
}

Xxh128 xxh128(std::span<const std::byte> first, std::span<const std::byte> second) {
  XXH3_state_t state;
  XXH3_128bits_reset(&state);
  XXH3_128bits_update(&state, first.data(), first.size());
  XXH3_128bits_update(&state, second.data(), second.size());
  return canonical(XXH3_128bits_digest(&state));
}

Sha256Stream::Sha256Stream() {
  static_assert(sizeof(SHA256_CTX) <= sizeof state_ && alignof(SHA256_CTX) <= 8);
  static_assert(std::is_trivially_copyable_v<SHA256_CTX>);
  require(SHA256_Init(::new (state_.data()) SHA256_CTX) == 1, "SHA256_Init");
}

void Sha256Stream::add(std::span<const std::byte> bytes) {
  require(SHA256_Update(context_of(state_.data()), bytes.data(), bytes.size()) == 1,
          "SHA256_Update");
}

Sha256 Sha256Stream::finish() {
  Sha256 out;
  require(
      SHA256_Final(reinterpret_cast<unsigned char*>(out.data()), context_of(state_.data())) == 1,
      "SHA256_Final");
  return out;
}

Sha256 sha256(std::span<const std::byte> bytes) {
  Sha256Stream stream;
  stream.add(bytes);
  return stream.finish();
}

std::string to_hex(std::span<const std::byte> bytes) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  hex.reserve(bytes.size() * 2);
  for (const std::byte byte : bytes) {
    hex.push_back(kDigits[std::to_integer<unsigned>(byte >> 4)]);
    hex.push_back(kDigits[std::to_integer<unsigned>(byte & std::byte{15})]);
  }
  return hex;
}

Result<Sha256> sha256_from_hex(std::string_view hex) {
  Sha256 out;
  if (hex.size() != out.size() * 2) return fail(Code::kInvalid, "digest: not 64 hex digits");
  for (std::size_t i = 0; i < out.size(); ++i) {
    const int high = hex_value(hex[2 * i]);
    const int low = hex_value(hex[2 * i + 1]);
    if (high < 0 || low < 0) return fail(Code::kInvalid, "digest: not 64 lower-case hex digits");
    out[i] = static_cast<std::byte>(high * 16 + low);
  }
  return out;
}

}  // namespace volt::formats
