#include "vmm/os/error.h"

#include <cerrno>
#include <cstring>

namespace volt {

std::unexpected<Error> sys_error(std::string_view call, std::string_view object) {
  const int code = errno;
  std::string context(call);
  if (!object.empty()) context.append(" ").append(object);
  context.append(": ").append(std::strerror(code));
  return std::unexpected(Error{Code::kSystem, code, std::move(context)});
}

Error within(std::string_view outer, Error inner) {
  inner.context.insert(0, std::string(outer) + ": ");
  return inner;
}

}  // namespace volt
