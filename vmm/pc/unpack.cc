#include "vmm/pc/unpack.h"

#include <lz4.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "vmm/pc/checked_slice.h"

namespace volt::pc {
namespace {

using std::operator""sv;

struct Magic {
  std::string_view bytes;
  Packing packing;
};

constexpr Magic kMagics[] = {
    {"\x02\x21\x4C\x18"sv, Packing::kLz4},
    {"\x28\xB5\x2F\xFD"sv, Packing::kZstd},
    {"\x1F\x8B"sv, Packing::kGzip},
    {"\xFD\x37zXZ\0"sv, Packing::kXz},
    {"BZh"sv, Packing::kBzip2},
    {"\x5D\0\0"sv, Packing::kLzma},
    {"\x89LZO"sv, Packing::kLzo},
};

std::unexpected<Error> damaged(Packing packing, const std::string& what) {
  return fail(Code::kCorrupt, std::string(name_of(packing)) + ": " + what);
}

std::unexpected<Error> wrong_size(Packing packing, std::uint64_t is, std::uint64_t said) {
  return damaged(packing, "unpacks to " + std::to_string(is) + " bytes, not the " +
                              std::to_string(said) + " it says");
}

// The legacy frame: a magic, then chunks with their packed sizes. Each but the last unpacks to 8
// MiB, and nothing but the end of the input says which is the last.
Result<> unpack_lz4(std::span<const std::byte> packed, std::span<std::byte> into) {
  constexpr std::size_t kChunk = 8 << 20;
  std::size_t from = sizeof(std::uint32_t);
  std::size_t done = 0;
  while (from < packed.size()) {
    const auto said = read_at<std::uint32_t>(packed, from);
    const auto chunk = said ? slice(packed, from + sizeof *said, *said) : std::nullopt;
    if (!chunk || chunk->size() > LZ4_COMPRESSBOUND(kChunk)) {
      return damaged(Packing::kLz4, "the chunk at " + std::to_string(from) + " runs past the end");
    }
    const std::size_t room = std::min(kChunk, into.size() - done);
    const int unpacked = LZ4_decompress_safe(
        reinterpret_cast<const char*>(chunk->data()), reinterpret_cast<char*>(into.data() + done),
        static_cast<int>(chunk->size()), static_cast<int>(room));
    if (unpacked < 0) {
      return damaged(Packing::kLz4, "the chunk at " + std::to_string(from) + " is damaged");
    }
    from += sizeof *said + chunk->size();
    done += static_cast<std::size_t>(unpacked);
  }
  if (done != into.size()) return wrong_size(Packing::kLz4, done, into.size());
  return {};
}

Result<> unpack_zstd(std::span<const std::byte> packed, std::span<std::byte> into) {
  const std::size_t done = ZSTD_decompress(into.data(), into.size(), packed.data(), packed.size());
  if (ZSTD_isError(done) != 0) return damaged(Packing::kZstd, ZSTD_getErrorName(done));
  if (done != into.size()) return wrong_size(Packing::kZstd, done, into.size());
  return {};
}

Result<> unpack_gzip(std::span<const std::byte> packed, std::span<std::byte> into) {
  constexpr int kGzipOnly = 16;
  z_stream stream = {};
  if (::inflateInit2(&stream, kGzipOnly + MAX_WBITS) != Z_OK) {
    return fail(Code::kSystem, "gzip: no memory");
  }
  stream.next_in = const_cast<Bytef*>(reinterpret_cast<const Bytef*>(packed.data()));
  stream.avail_in = static_cast<uInt>(packed.size());
  stream.next_out = reinterpret_cast<Bytef*>(into.data());
  stream.avail_out = static_cast<uInt>(into.size());
  const int status = ::inflate(&stream, Z_FINISH);
  const std::uint64_t done = stream.total_out;
  const std::string message = stream.msg == nullptr ? "ends early" : stream.msg;
  ::inflateEnd(&stream);
  if (status != Z_STREAM_END && done != into.size()) return damaged(Packing::kGzip, message);
  if (status != Z_STREAM_END) return damaged(Packing::kGzip, "longer than it says, or damaged");
  if (done != into.size()) return wrong_size(Packing::kGzip, done, into.size());
  return {};
}

}  // namespace

Packing packing_of(std::span<const std::byte> packed) {
  const std::string_view text(reinterpret_cast<const char*>(packed.data()), packed.size());
  for (const Magic& magic : kMagics) {
    if (text.starts_with(magic.bytes)) return magic.packing;
  }
  return Packing::kUnknown;
}

const char* name_of(Packing packing) {
  switch (packing) {
    case Packing::kLz4:
      return "lz4";
    case Packing::kZstd:
      return "zstd";
    case Packing::kGzip:
      return "gzip";
    case Packing::kXz:
      return "xz";
    case Packing::kBzip2:
      return "bzip2";
    case Packing::kLzma:
      return "lzma";
    case Packing::kLzo:
      return "lzo";
    case Packing::kUnknown:
      break;
  }
  return "a compression unknown to Volt";
}

Result<Mapping> unpack(std::span<const std::byte> packed, std::uint64_t unpacked_bytes) {
  const Packing packing = packing_of(packed);
  // Lengths of zlib and LZ4 are narrower than ours.
  if (packed.size() > kMaxUnpacked || unpacked_bytes > kMaxUnpacked || unpacked_bytes == 0) {
    return damaged(packing, std::to_string(packed.size()) + " bytes that say to unpack to " +
                                std::to_string(unpacked_bytes) + "; the most is " +
                                std::to_string(kMaxUnpacked));
  }
  // Pages come as they are written: a lie about the size costs no memory.
  Mapping unpacked = VOLT_TRY(Mapping::create(unpacked_bytes, PROT_READ | PROT_WRITE,
                                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
                                              "unpacked kernel"));
  switch (packing) {
    case Packing::kLz4:
      VOLT_TRY(unpack_lz4(packed, unpacked.bytes()));
      return unpacked;
    case Packing::kZstd:
      VOLT_TRY(unpack_zstd(packed, unpacked.bytes()));
      return unpacked;
    case Packing::kGzip:
      VOLT_TRY(unpack_gzip(packed, unpacked.bytes()));
      return unpacked;
    case Packing::kXz:
    case Packing::kBzip2:
    case Packing::kLzma:
    case Packing::kLzo:
    case Packing::kUnknown:
      break;
  }
  return fail(Code::kUnsupported,
              std::string("packed with ") + name_of(packing) + ", which Volt cannot unpack");
}

}  // namespace volt::pc
