// A distribution's kernel, by way of the package manager that is there: it knows where its packages
// are and checks that they are its own.
#pragma once

#include <string>

#include "vmm/os/error.h"

namespace volt::tools {

// "6.1.0-56-cloud-amd64", for such a version or for "latest". kHostUnable without apt.
Result<std::string> resolve_kernel_version(const std::string& wanted);

struct FetchedKernel {
  std::string file;     // its vmlinuz
  std::string modules;  // its tree of modules
  std::string source;   // the package's file
};

// Fetches and unpacks its package, into `directory`.
Result<FetchedKernel> fetch_kernel(const std::string& version, const std::string& directory);

}  // namespace volt::tools
