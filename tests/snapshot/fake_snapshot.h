// Snapshots as the store sees them: a directory with a manifest file, whose content names it.
#pragma once

#include <fcntl.h>

#include <string>

#include "tests/snapshot/fixture.h"
#include "vmm/os/file.h"

namespace volt::test {

inline formats::Sha256 digest_of_fake(const std::string& content) {
  return formats::sha256(std::as_bytes(std::span(content)));
}

inline Result<> publish_fake(const Store& store, const std::string& content,
                             const snapshot::Reference& reference, Store::IfTaken if_taken) {
  snapshot::Draft draft = VOLT_TRY(store.begin());
  const Fd file = VOLT_TRY(draft.create_file(snapshot::kManifestFile));
  VOLT_TRY(write_all(file, std::as_bytes(std::span(content)), 0, "manifest"));
  return store.publish(std::move(draft), digest_of_fake(content), reference, if_taken);
}

inline Result<std::string> fake_content(const Store& store, const snapshot::Reference& reference) {
  const Fd dir = VOLT_TRY(store.find(reference));
  const Fd file = VOLT_TRY(open_at(dir.get(), snapshot::kManifestFile, O_RDONLY));
  const std::vector<std::byte> bytes = VOLT_TRY(read_whole(file, 1 << 20, "manifest"));
  return std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size());
}

}  // namespace volt::test
