#include "tools/guest/init/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

namespace volt::init {

void say(const char* format, ...) {
  char line[640] = "volt-init: ";
  const size_t prefix = strlen(line);
  va_list arguments;
  va_start(arguments, format);
  const int wanted = vsnprintf(line + prefix, sizeof line - prefix - 1, format, arguments);
  va_end(arguments);
  if (wanted < 0) return;
  size_t length = strlen(line);
  line[length++] = '\n';
  // A console that takes nothing is no reason to stop.
  if (write(STDERR_FILENO, line, length) < 0) return;
}

const char* reason(int error) {
  const char* text = strerrordesc_np(error);
  return text != nullptr ? text : "unknown error";
}

void say_error(const char* what, int error) {
  say("%s: %s", what, reason(error));
}

bool Failure::set(int why, const char* format, ...) {
  error = why;
  va_list arguments;
  va_start(arguments, format);
  if (vsnprintf(text, sizeof text, format, arguments) < 0) text[0] = '\0';
  va_end(arguments);
  return false;
}

}  // namespace volt::init
