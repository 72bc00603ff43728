// A hot set in an order of the test's choice, where a recording would have its own.
#pragma once

#include <cstring>
#include <string_view>
#include <vector>

#include "formats/hot_set.h"
#include "tests/snapshot/fixture.h"

namespace volt::test {

// Keeps one beside the snapshot that touches these entries of the index in this order: each in its
// last page first, and all of them once more, the other way round.
inline void keep_hot_order(const Store& store, std::string_view name,
                           const std::vector<std::uint64_t>& entries) {
  const auto opened = must(snapshot::OpenedSnapshot::open(store, named(name)));
  const std::uint64_t per_unit = opened.index().unit_bytes() / formats::kHotPageBytes;
  formats::HotSet set = {.digest = opened.index().digest(), .pages = {}};
  for (const std::uint64_t i : entries) {
    set.pages.push_back({(must(opened.index().at(i)).unit + 1) * per_unit - 1, false});
  }
  for (std::size_t i = entries.size(); i-- > 0;) {
    set.pages.push_back({must(opened.index().at(entries[i])).unit * per_unit, true});
  }
  const std::string path =
      directory_of(store, named(name)) + "/" + std::string(snapshot::kHotSetFile);
  std::filesystem::remove(path);
  write_file(path, formats::encode_hot_set(set));
}

}  // namespace volt::test
