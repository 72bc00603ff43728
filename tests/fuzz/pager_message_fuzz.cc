// Pager messages and Firecracker's hand-shake on anything: an error, or a message that is written
// as the same bytes, and views that lie in the image.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>

#include "uffd/firecracker.h"
#include "uffd/pager_protocol.h"

namespace volt::uffd {
namespace {

constexpr std::uint64_t kUnitBytes = 65536, kImageBytes = 16 * kUnitBytes;

void expect(bool holds, const char* what) {
  if (holds) return;
  std::fprintf(stderr, "broken promise: %s\n", what);
  std::abort();
}

void fuzz_views(std::span<const pager::WireView> views) {
  const auto checked = pager::checked_views(views, kImageBytes, kUnitBytes);
  if (!checked) return expect(checked.error().code == Code::kInvalid, "the code is one");
  for (const View& view : *checked) {
    expect(view.image_offset + view.host.size() <= kImageBytes, "views lie in the image");
    expect(view.host.size() % kUnitBytes == 0, "views are whole units");
  }
}

void fuzz_message(std::span<const std::byte> bytes) {
  if (bytes.size() < pager::kHeadBytes) return;
  const auto head = pager::decode_head(bytes);
  if (!head || bytes.size() - pager::kHeadBytes < head->body_bytes) return;
  const auto message =
      pager::decode_body(*head, bytes.subspan(pager::kHeadBytes, head->body_bytes));
  if (!message) return;
  expect(message->index() == head->type, "the type is the one it says");
  const auto again = pager::encode(*message, head->fds);
  expect(head->body_bytes > 4000 ||
             std::ranges::equal(again, bytes.first(pager::kHeadBytes + head->body_bytes)),
         "writing is canonical");
  if (const auto* attach = std::get_if<pager::Attach>(&*message)) fuzz_views(attach->views);
}

}  // namespace
}  // namespace volt::uffd

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace volt::uffd;
  const auto input = std::as_bytes(std::span(data, size));
  fuzz_message(input);
  const auto regions = firecracker::decode(input);
  if (regions && *regions) fuzz_views(**regions);
  return 0;
}
