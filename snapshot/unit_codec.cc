#include "snapshot/unit_codec.h"

#include <zstd.h>
#include <zstd_errors.h>

#include <cstring>
#include <new>
#include <string>

namespace volt::snapshot {

void UnitEncoder::Free::operator()(ZSTD_CCtx_s* context) const {
  ::ZSTD_freeCCtx(context);
}
void UnitDecoder::Free::operator()(ZSTD_DCtx_s* context) const {
  ::ZSTD_freeDCtx(context);
}

UnitEncoder::UnitEncoder(int level) : context_(::ZSTD_createCCtx()) {
  if (context_ == nullptr) throw std::bad_alloc();
  ::ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_compressionLevel, level);
  // The sums over what is stored and over the unit say more than zstd's own would.
  ::ZSTD_CCtx_setParameter(context_.get(), ZSTD_c_checksumFlag, 0);
}

Result<std::size_t> UnitEncoder::encode(std::span<const std::byte> raw, std::span<std::byte> into) {
  const std::size_t bytes =
      ::ZSTD_compress2(context_.get(), into.data(), raw.size() - 1, raw.data(), raw.size());
  if (::ZSTD_isError(bytes) == 0) return bytes;
  if (::ZSTD_getErrorCode(bytes) == ZSTD_error_dstSize_tooSmall) return std::size_t{0};
  return fail(Code::kSystem, std::string("zstd: ") + ::ZSTD_getErrorName(bytes));
}

UnitDecoder::UnitDecoder() : context_(::ZSTD_createDCtx()) {
  if (context_ == nullptr) throw std::bad_alloc();
}

Result<> UnitDecoder::decode(std::span<const std::byte> stored, std::span<std::byte> into) {
  if (stored.size() == into.size()) {
    std::memcpy(into.data(), stored.data(), into.size());
    return {};
  }
  if (stored.size() > into.size()) {
    return fail(Code::kCorrupt, std::to_string(stored.size()) + " bytes are no unit of " +
                                    std::to_string(into.size()));
  }
  const std::size_t bytes =
      ::ZSTD_decompressDCtx(context_.get(), into.data(), into.size(), stored.data(), stored.size());
  if (::ZSTD_isError(bytes) != 0) {
    return fail(Code::kCorrupt, std::string("zstd: ") + ::ZSTD_getErrorName(bytes));
  }
  if (bytes != into.size()) {
    return fail(Code::kCorrupt, "zstd: the frame holds " + std::to_string(bytes) + " bytes, not " +
                                    std::to_string(into.size()));
  }
  return {};
}

}  // namespace volt::snapshot
