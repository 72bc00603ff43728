#include "snapshot/archive.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <memory>

#include "formats/archive.h"
#include "formats/hot_set.h"
#include "snapshot/hot_layout.h"
#include "snapshot/unit_reader.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using formats::Section;

constexpr std::size_t kWriteBytes = 1 << 20;

// Everything that goes out is part of the digest, but for the last section.
class ArchiveWriter {
 public:
  explicit ArchiveWriter(const Fd& to) : to_(to) { add(formats::encode_archive_head()); }

  Result<> section(Section kind, std::span<const std::byte> bytes) {
    add(formats::encode_section_head(kind, bytes));
    add(bytes);
    return buffer_.size() < kWriteBytes ? Result<>{} : flush();
  }

  Result<formats::Sha256> end() {
    const formats::Sha256 digest = digest_.finish();
    append(formats::encode_section_head(Section::kEnd, digest));
    append(digest);
    VOLT_TRY(flush());
    return digest;
  }

  std::uint64_t bytes() const { return written_; }

 private:
  void append(std::span<const std::byte> bytes) {
    buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
  }
  void add(std::span<const std::byte> bytes) {
    digest_.add(bytes);
    append(bytes);
  }

  Result<> flush() {
    std::span<const std::byte> rest = buffer_;
    while (!rest.empty()) {
      const ssize_t put = ::write(to_.get(), rest.data(), rest.size());
      if (put < 0 && errno == EINTR) {
        VOLT_TRY(vmm::check_stop());
        continue;
      }
      if (put < 0) return sys_error("write", "archive");
      rest = rest.subspan(static_cast<std::size_t>(put));
    }
    written_ += buffer_.size();
    buffer_.clear();
    return {};
  }

  const Fd& to_;
  formats::Sha256Stream digest_;
  std::vector<std::byte> buffer_;
  std::uint64_t written_ = 0;
};

Result<std::vector<std::byte>> file_of(const OpenedSnapshot& snapshot, const char* name) {
  const Fd file = VOLT_TRY(open_at(snapshot.directory().get(), name, O_RDONLY));
  return read_whole(file, formats::kMaxSectionBytes, name);
}

Result<> save_units(const OpenedSnapshot& snapshot, const PackOptions& options,
                    ArchiveWriter& writer) {
  struct Item {
    std::vector<std::byte> unit, frame;
    std::span<const std::byte> stored;
  };
  struct Tools {
    UnitReader reader;
    UnitEncoder encoder;
  };
  const std::uint64_t unit_bytes = snapshot.index().unit_bytes();
  OrderedWork<Item, Tools> work(
      options.threads,
      [&] {
        return Item{std::vector<std::byte>(unit_bytes), std::vector<std::byte>(unit_bytes), {}};
      },
      [&] { return Tools{UnitReader(snapshot), UnitEncoder(options.level)}; });
  const auto encode = [](Item& item, Tools& tools, std::uint64_t i) -> Result<> {
    VOLT_TRY(tools.reader.read(i, item.unit));
    const std::size_t bytes = VOLT_TRY(tools.encoder.encode(item.unit, item.frame));
    item.stored = bytes == 0 ? std::span<const std::byte>(item.unit)
                             : std::span<const std::byte>(item.frame).first(bytes);
    return {};
  };
  return work.run(snapshot.index().entry_count(), encode, [&](Item& item, std::uint64_t) {
    return writer.section(Section::kUnit, item.stored);
  });
}

// Reads section by section what may come only in one order.
class ArchiveReader {
 public:
  explicit ArchiveReader(const Fd& from) : from_(from) {}

  Result<> head() {
    std::array<std::byte, formats::kArchiveHeadBytes> head;
    VOLT_TRY(read(head));
    digest_.add(head);
    return formats::decode_archive_head(head);
  }

  // The next section, whatever it is; its bytes stay until the one after.
  Result<Section> next() {
    std::array<std::byte, formats::kSectionHeadBytes> bytes;
    VOLT_TRY(read(bytes));
    const formats::SectionHead head = VOLT_TRY(formats::decode_section_head(bytes));
    VOLT_TRY(order_.next(head.kind));
    if (head.kind != Section::kEnd) digest_.add(bytes);
    VOLT_TRY(read_body(head.bytes));
    if (head.kind != Section::kEnd) digest_.add(body_);
    VOLT_TRY(formats::check_section(head, body_));
    return head.kind;
  }
  Result<> next(Section wanted) {
    const Section got = VOLT_TRY(next());
    if (got == wanted) return {};
    return fail(Code::kCorrupt, "archive: section: kind " +
                                    std::to_string(static_cast<std::uint32_t>(got)) + ", not " +
                                    std::to_string(static_cast<std::uint32_t>(wanted)));
  }
  void expect_units(std::uint64_t units) { order_.expect_units(units); }

  // After the last section: whether it names what came before, and nothing follows.
  Result<formats::Sha256> finish() {
    const formats::Sha256 digest = digest_.finish();
    if (!std::ranges::equal(digest, body_)) {
      return fail(Code::kCorrupt, "archive: end: names other bytes than these");
    }
    std::array<std::byte, 1> more;
    if (const std::size_t got = VOLT_TRY(read_some(more)); got != 0) {
      return fail(Code::kCorrupt, "archive: end: bytes follow the last section");
    }
    return digest;
  }

  const std::vector<std::byte>& body() const { return body_; }
  std::uint64_t bytes() const { return bytes_; }

 private:
  // Grows with what arrives, not with what a head claims.
  Result<> read_body(std::uint64_t bytes) {
    body_.clear();
    while (body_.size() < bytes) {
      const std::size_t have = body_.size();
      body_.resize(have + std::min<std::uint64_t>(bytes - have, 4 << 20));
      VOLT_TRY(read(std::span(body_).subspan(have)));
    }
    return {};
  }

  Result<> read(std::span<std::byte> into) {
    while (!into.empty()) {
      const std::size_t got = VOLT_TRY(read_some(into));
      if (got == 0) {
        return fail(Code::kCorrupt, "archive: ends at byte " + std::to_string(bytes_) + ", " +
                                        std::to_string(into.size()) + " bytes too early");
      }
      into = into.subspan(got);
    }
    return {};
  }

  Result<std::size_t> read_some(std::span<std::byte> into) {
    for (;;) {
      const ssize_t got = ::read(from_.get(), into.data(), into.size());
      if (got >= 0) {
        bytes_ += static_cast<std::uint64_t>(got);
        return static_cast<std::size_t>(got);
      }
      if (errno != EINTR) return sys_error("read", "archive");
      VOLT_TRY(vmm::check_stop());
    }
  }

  const Fd& from_;
  formats::SectionOrder order_;
  formats::Sha256Stream digest_;
  std::vector<std::byte> body_;
  std::uint64_t bytes_ = 0;
};

Result<> put_file(const Draft& draft, const char* name, std::span<const std::byte> bytes) {
  const Fd file = VOLT_TRY(draft.create_file(name));
  VOLT_TRY(write_all(file, bytes, 0, name));
  return sync(file, name);
}

Result<> check_named(const char* name, std::span<const std::byte> bytes,
                     const formats::v1::FileRef& ref) {
  const formats::Sha256 sum = formats::sha256(bytes);
  if (bytes.size() == ref.size_bytes() &&
      std::memcmp(sum.data(), ref.sha256().data(), sum.size()) == 0) {
    return {};
  }
  return fail(Code::kCorrupt,
              std::string("archive: ") + name + ": it is not the one the manifest names");
}

// A snapshot on its way from a stream into a draft.
class Loading {
 public:
  Loading(const Store& store, const Draft& draft, ArchiveReader& reader)
      : store_(store), draft_(draft), reader_(reader) {}

  Result<formats::Sha256> run(const LoadOptions& options) {
    VOLT_TRY(reader_.head());
    VOLT_TRY(read_manifest());
    VOLT_TRY(reader_.next(Section::kState));
    VOLT_TRY(check_named(kStateFile, reader_.body(), manifest_.state()));
    VOLT_TRY(formats::decode_machine_state(reader_.body()));
    VOLT_TRY(put_file(draft_, kStateFile, reader_.body()));
    VOLT_TRY(read_index());
    VOLT_TRY(read_units());
    archive_ = VOLT_TRY(reader_.finish());
    if (options.archive && *options.archive != archive_) {
      return fail(Code::kCorrupt, "archive: its SHA-256 is " + formats::to_hex(archive_) +
                                      ", not the one asked for");
    }
    VOLT_TRY(store_memory(options));
    VOLT_TRY(put_file(draft_, kManifestFile, manifest_file_));
    return formats::sha256(manifest_file_);
  }

  std::uint64_t units() const { return entries_.size(); }
  const formats::Sha256& archive() const { return archive_; }

 private:
  Result<> read_manifest() {
    VOLT_TRY(reader_.next(Section::kManifest));
    manifest_file_ = reader_.body();
    manifest_ = VOLT_TRY(formats::decode_manifest(manifest_file_));
    return {};
  }

  Result<> read_index() {
    VOLT_TRY(reader_.next(Section::kIndex));
    VOLT_TRY(check_named(kIndexFile, reader_.body(), manifest_.index()));
    const std::vector<std::byte> file = reader_.body();
    const formats::MemoryIndex index = VOLT_TRY(formats::MemoryIndex::open(file));
    VOLT_TRY(index.check_all());
    VOLT_TRY(check_agreement(manifest_.memory(), index));
    for (std::uint64_t i = 0; i < index.entry_count(); ++i) {
      entries_.push_back(VOLT_TRY(index.at(i)));
    }
    unit_bytes_ = index.unit_bytes();
    memory_digest_ = index.digest();
    reader_.expect_units(index.entry_count());
    return put_file(draft_, kIndexFile, file);
  }

  Result<> read_units() {
    memory_ = VOLT_TRY(draft_.create_file(kMemoryFile));
    UnitDecoder decoder;
    std::vector<std::byte> unit(unit_bytes_);
    std::size_t done = 0;
    for (;;) {
      VOLT_TRY(vmm::check_stop());
      const Section kind = VOLT_TRY(reader_.next());
      if (kind == Section::kEnd) break;
      if (kind == Section::kHotSet) {
        VOLT_TRY(read_hot_set());
        continue;
      }
      const formats::IndexEntry& entry = entries_[done++];
      const std::string where = "archive: unit " + std::to_string(entry.unit);
      VOLT_TRY_IN(where, decoder.decode(reader_.body(), unit));
      if (formats::xxh128(unit) != entry.sum) {
        return fail(Code::kCorrupt, where + ": not the bytes that the index names");
      }
      VOLT_TRY(write_all(memory_, unit, entry.place, kMemoryFile));
    }
    return {};
  }

  Result<> read_hot_set() {
    const formats::HotSet set = VOLT_TRY(formats::decode_hot_set(reader_.body()));
    if (set.digest != memory_digest_) {
      return fail(Code::kCorrupt, "archive: hotset: digest: it is of another memory");
    }
    hot_ = hot_entries(set, entries_, unit_bytes_);
    return put_file(draft_, kHotSetFile, reader_.body());
  }

  Result<> store_memory(const LoadOptions& options) {
    const std::uint64_t bytes = memory_bytes(manifest_.memory());
    if (::ftruncate(memory_.get(), static_cast<off_t>(bytes)) != 0) {
      return sys_error("ftruncate", kMemoryFile);
    }
    if (options.storage == Storage::kRaw) return sync(memory_, kMemoryFile);
    const UnitsToPack units = {.entries = entries_,
                               .memory_digest = memory_digest_,
                               .unit_bytes = unit_bytes_,
                               .make_reader = raw_reader(memory_, entries_),
                               .hot = hot_};
    const Packs packs = VOLT_TRY(Packs::open(store_.packs(), Packs::Lock::kShared));
    VOLT_TRY(pack_into(packs, draft_.dir(), units, options.pack));
    if (::unlinkat(draft_.dir().get(), kMemoryFile, 0) != 0) {
      return sys_error("unlink", kMemoryFile);
    }
    return {};
  }

  const Store& store_;
  const Draft& draft_;
  ArchiveReader& reader_;
  std::vector<std::byte> manifest_file_;
  formats::Manifest manifest_;
  std::vector<formats::IndexEntry> entries_;
  std::vector<std::uint64_t> hot_;  // of these, in the order of first touch
  std::uint64_t unit_bytes_ = 0;
  formats::Sha256 memory_digest_ = {};
  formats::Sha256 archive_ = {};
  Fd memory_;
};

}  // namespace

Result<Archived> save(const Store& store, const Reference& reference, const Fd& to,
                      const PackOptions& options) {
  const OpenedSnapshot snapshot = VOLT_TRY(OpenedSnapshot::open(store, reference));
  VOLT_TRY(snapshot.index().check_all());
  VOLT_TRY(snapshot.check_agreement());
  ArchiveWriter writer(to);
  const std::vector<std::byte> manifest = VOLT_TRY(file_of(snapshot, kManifestFile));
  VOLT_TRY(writer.section(Section::kManifest, manifest));
  const std::vector<std::byte> state = VOLT_TRY(file_of(snapshot, kStateFile));
  VOLT_TRY(writer.section(Section::kState, state));
  const std::vector<std::byte> index = VOLT_TRY(file_of(snapshot, kIndexFile));
  VOLT_TRY(writer.section(Section::kIndex, index));
  Result<std::vector<std::byte>> hot_set = file_of(snapshot, kHotSetFile);
  if (!hot_set && hot_set.error().code != Code::kNotFound) {
    return std::unexpected(hot_set.error());
  }
  if (hot_set) VOLT_TRY(writer.section(Section::kHotSet, *hot_set));
  VOLT_TRY(save_units(snapshot, options, writer));
  Archived archived = {.digest = snapshot.digest(),
                       .archive = VOLT_TRY(writer.end()),
                       .units = snapshot.index().entry_count()};
  archived.bytes = writer.bytes();
  return archived;
}

Result<Archived> load(const Store& store, const Reference& reference, const Fd& from,
                      const LoadOptions& options) {
  ArchiveReader reader(from);
  Draft draft = VOLT_TRY(store.begin());
  Loading loading(store, draft, reader);
  Archived archived;
  archived.digest = VOLT_TRY(loading.run(options));
  archived.archive = loading.archive();
  archived.units = loading.units();
  archived.bytes = reader.bytes();
  VOLT_TRY(store.publish(std::move(draft), archived.digest, reference, options.if_taken));
  return archived;
}

}  // namespace volt::snapshot
