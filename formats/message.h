// What the two protobuf codecs share: bytes to message and back, without a word on stderr.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "formats/head.h"
#include "formats/occurrences.h"
#include "vmm/os/error.h"

namespace volt::formats {

// Counts, then parses. What it yields has passed no rule but those of `occurrences`.
Result<> parse(std::span<const std::byte> body, std::span<const Occurrence> occurrences,
               google::protobuf::MessageLite& message);

std::vector<std::byte> sealed(FileKind kind, const google::protobuf::MessageLite& message);

// nullptr if the string is UTF-8 of at most `max_bytes`, what is wrong with it otherwise.
const char* text_fault(const std::string& text, std::size_t max_bytes);

}  // namespace volt::formats
