// The standard notes, without a resume entry: this guest goes on exactly where it stopped.
#define resume 0
#include "tools/guest/micro/note.S"
