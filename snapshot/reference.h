// How people and programs name a snapshot: `name`, `name:tag`, either with `@sha256:DIGEST`, or
// `sha256:DIGEST` alone. Without a tag, `latest` is meant.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "formats/digest.h"
#include "vmm/os/error.h"

namespace volt::snapshot {

struct Reference {
  std::string name;  // empty when only a digest was given
  std::string tag;
  std::optional<formats::Sha256> digest;

  // kInvalid says which part is wrong and what is allowed.
  static Result<Reference> parse(std::string_view text);
  // `name:tag`, or the digest.
  std::string text() const;
};

}  // namespace volt::snapshot
