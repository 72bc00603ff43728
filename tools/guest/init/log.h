// Lines on the console. Nothing here allocates, and a line too long is cut.
#pragma once

namespace volt::init {

[[gnu::format(printf, 1, 2)]] void say(const char* format, ...);

// `what: reason of errno`.
void say_error(const char* what, int error);

// For people; never null.
const char* reason(int error);

// What a request failed of. The text is cut where it is too long.
struct Failure {
  int error = 0;
  char text[512] = {};

  // Always false, so that it is what a failing function returns.
  [[gnu::format(printf, 3, 4)]] bool set(int why, const char* format, ...);
};

}  // namespace volt::init
