#include "tools/guest/init/files.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "vmm/os/fd.h"

namespace volt::init {

long read_text(const char* path, char* into, std::size_t size) {
  const Fd file(open(path, O_RDONLY | O_CLOEXEC));
  if (!file.valid()) return -1;
  std::size_t length = 0;
  while (length < size - 1) {
    const ssize_t got = ::read(file.get(), into + length, size - 1 - length);
    if (got < 0) return -1;
    if (got == 0) break;
    length += static_cast<std::size_t>(got);
  }
  into[length] = '\0';
  return static_cast<long>(length);
}

int write_text(const char* path, const char* text) {
  const Fd file(open(path, O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return errno;
  const std::size_t length = strlen(text);
  const ssize_t written = write(file.get(), text, length);
  if (written < 0) return errno;
  return static_cast<std::size_t>(written) == length ? 0 : EIO;
}

Path::Path(const char* directory, const char* name) {
  const int length = snprintf(text, sizeof text, "%s/%s", directory, name);
  if (length < 0 || static_cast<std::size_t>(length) >= sizeof text) text[0] = '\0';
}

int Names::read(const char* directory) {
  count = 0;
  DIR* const dir = opendir(directory);
  if (dir == nullptr) return errno;
  int error = 0;
  while (const dirent* entry = readdir(dir)) {
    if (entry->d_name[0] == '.') continue;
    if (count == kCapacity) {
      error = E2BIG;
      break;
    }
    std::size_t at = count++;
    for (; at > 0 && strcmp(names[at - 1], entry->d_name) > 0; --at)
      memcpy(names[at], names[at - 1], sizeof names[at]);
    snprintf(names[at], sizeof names[at], "%s", entry->d_name);
  }
  closedir(dir);
  return error;
}

bool is_program(const char* path) {
  struct stat status;
  return stat(path, &status) == 0 && S_ISREG(status.st_mode) && access(path, X_OK) == 0;
}

std::int64_t now_ms() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 + now.tv_nsec / 1'000'000;
}

}  // namespace volt::init
