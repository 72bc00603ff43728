#include "vmm/pc/unpack.h"

#include <lz4.h>
#include <lzma.h>
#include <sys/mman.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <memory>
#include <string>
#include <string_view>

#include "vmm/checked_slice.h"

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

std::unexpected<Error> cannot(Packing packing) {
  return fail(Code::kUnsupported,
              std::string("packed with ") + name_of(packing) + ", which Volt cannot unpack");
}

// The legacy frame: a magic, then chunks with their packed sizes. Each but the last unpacks to 8
// MiB, and nothing but the end of the input says which is the last.
Result<> unpack_lz4(std::span<const std::byte> packed, std::span<std::byte> into) {
  constexpr std::size_t kChunk = 8 << 20;
  std::size_t from = sizeof(std::uint32_t);
  std::size_t done = 0;
  while (from < packed.size()) {
    const auto said = vmm::read_at<std::uint32_t>(packed, from);
    const auto chunk = said ? vmm::slice(packed, from + sizeof *said, *said) : std::nullopt;
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

constexpr std::uint64_t kXzMemory = 96 << 20;  // its dictionary's; a kernel's has 32 MiB

Result<> unpack_xz(std::span<const std::byte> packed, std::span<std::byte> into) {
  std::uint64_t memory = kXzMemory;
  std::size_t from = 0;
  std::size_t done = 0;
  const lzma_ret status = ::lzma_stream_buffer_decode(
      &memory, 0, nullptr, reinterpret_cast<const std::uint8_t*>(packed.data()), &from,
      packed.size(), reinterpret_cast<std::uint8_t*>(into.data()), &done, into.size());
  if (status == LZMA_BUF_ERROR) return damaged(Packing::kXz, "longer than it says, or cut");
  if (status != LZMA_OK) return damaged(Packing::kXz, "error " + std::to_string(status));
  if (done != into.size()) return wrong_size(Packing::kXz, done, into.size());
  return {};
}

using Unpack = Result<> (*)(std::span<const std::byte> packed, std::span<std::byte> into);

// Null for what we cannot.
Unpack unpacker_of(Packing packing) {
  switch (packing) {
    case Packing::kLz4:
      return unpack_lz4;
    case Packing::kZstd:
      return unpack_zstd;
    case Packing::kGzip:
      return unpack_gzip;
    case Packing::kXz:
      return unpack_xz;
    case Packing::kBzip2:
    case Packing::kLzma:
    case Packing::kLzo:
    case Packing::kUnknown:
      break;
  }
  return nullptr;
}

// One step of a decoder: how much it took and gave, and whether it is at its end.
struct Step {
  std::size_t taken;
  std::size_t given;
  bool ended;
};

// Runs `step` over all of `packed`, into as much as it turns out to take.
template <typename Decode>
Result<std::vector<std::byte>> decode_all(Packing packing, std::span<const std::byte> packed,
                                          std::size_t most, Decode decode) {
  // One more, so that what ends at `most` has room to say that it does.
  const std::size_t room = most + 1;
  std::vector<std::byte> unpacked(std::min<std::size_t>(room, 1 << 20));
  std::size_t done = 0;
  for (;;) {
    const Step step = VOLT_TRY(decode(packed, std::span(unpacked).subspan(done)));
    packed = packed.subspan(step.taken);
    done += step.given;
    if (done == room) return damaged(packing, "more than " + std::to_string(most) + " bytes");
    if (step.ended) break;
    if (done < unpacked.size()) {
      if (step.taken == 0 && step.given == 0) return damaged(packing, "ends early");
      continue;
    }
    unpacked.resize(std::min(room, 2 * done));
  }
  unpacked.resize(done);
  return unpacked;
}

Result<std::vector<std::byte>> decode_zstd(std::span<const std::byte> packed, std::size_t most) {
  const std::unique_ptr<ZSTD_DCtx, std::size_t (*)(ZSTD_DCtx*)> context(::ZSTD_createDCtx(),
                                                                        ::ZSTD_freeDCtx);
  if (context == nullptr) return fail(Code::kSystem, "zstd: no memory");
  return decode_all(Packing::kZstd, packed, most,
                    [&](std::span<const std::byte> from, std::span<std::byte> to) -> Result<Step> {
                      ZSTD_inBuffer in = {from.data(), from.size(), 0};
                      ZSTD_outBuffer out = {to.data(), to.size(), 0};
                      const std::size_t left = ::ZSTD_decompressStream(context.get(), &out, &in);
                      if (ZSTD_isError(left) != 0) {
                        return damaged(Packing::kZstd, ZSTD_getErrorName(left));
                      }
                      return Step{in.pos, out.pos, left == 0};
                    });
}

Result<std::vector<std::byte>> decode_xz(std::span<const std::byte> packed, std::size_t most) {
  lzma_stream stream = LZMA_STREAM_INIT;
  const std::unique_ptr<lzma_stream, void (*)(lzma_stream*)> guard(&stream, ::lzma_end);
  if (::lzma_stream_decoder(&stream, kXzMemory, 0) != LZMA_OK) {
    return fail(Code::kSystem, "xz: no memory");
  }
  return decode_all(Packing::kXz, packed, most,
                    [&](std::span<const std::byte> from, std::span<std::byte> to) -> Result<Step> {
                      stream.next_in = reinterpret_cast<const std::uint8_t*>(from.data());
                      stream.avail_in = from.size();
                      stream.next_out = reinterpret_cast<std::uint8_t*>(to.data());
                      stream.avail_out = to.size();
                      const lzma_ret status = ::lzma_code(&stream, LZMA_RUN);
                      const bool ended = status == LZMA_STREAM_END;
                      if (status != LZMA_OK && status != LZMA_BUF_ERROR && !ended) {
                        return damaged(Packing::kXz, "error " + std::to_string(status));
                      }
                      return Step{from.size() - stream.avail_in, to.size() - stream.avail_out,
                                  ended};
                    });
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
  const Unpack unpack_into = unpacker_of(packing);
  if (unpack_into == nullptr) return cannot(packing);
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
  VOLT_TRY(unpack_into(packed, unpacked.bytes()));
  return unpacked;
}

Result<std::vector<std::byte>> unpack_unsized(std::span<const std::byte> packed, std::size_t most) {
  const Packing packing = packing_of(packed);
  if (packing == Packing::kZstd) return decode_zstd(packed, most);
  if (packing == Packing::kXz) return decode_xz(packed, most);
  return cannot(packing);
}

}  // namespace volt::pc
