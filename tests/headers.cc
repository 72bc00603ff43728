// The file behind the precompiled header: CMake wants one.
#include "tests/headers.h"
