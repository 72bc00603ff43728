// What the two fuzzers of sealed files share. The sum in the head stops nearly every mutation, so
// an input is tried three times: as a file, as a file whose body is sealed anew, and as a body.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include "formats/head.h"
#include "tests/fuzz/promise.h"

namespace volt::formats {

// `decode` yields a Result of a message. What it accepts must be acceptable to write, and must be
// read back as the same bytes.
template <typename Decode>
void fuzz_file(std::span<const std::byte> file, Decode decode) {
  const auto message = decode(file);
  if (!message) {
    const Code code = message.error().code;
    expect(code == Code::kCorrupt || code == Code::kUnsupported, "the code is one of two");
    expect(!message.error().context.empty(), "the error says something");
    return;
  }
  const std::vector<std::byte> written = encode(*message);
  const auto again = decode(std::span<const std::byte>(written));
  expect(again.has_value(), "what was written can be read");
  expect(encode(*again) == written, "writing is canonical");
}

template <typename Decode>
void fuzz_sealed(FileKind kind, std::span<const std::byte> input, Decode decode) {
  fuzz_file(input, decode);
  fuzz_file(seal(kind, input), decode);
  if (input.size() > kHeadBytes) fuzz_file(seal(kind, input.subspan(kHeadBytes)), decode);
}

}  // namespace volt::formats
