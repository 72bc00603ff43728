// COM1 by polling: the one way to talk that every other VMM offers without interrupts.
#pragma once

#include <cstdint>

namespace volt::guest {

void serial_write(const char* text);
void serial_write_hex(std::uint64_t value);

// The next character, after waiting for it as long as it takes; '\r' is skipped.
char serial_read();

}  // namespace volt::guest
