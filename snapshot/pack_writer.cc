#include "snapshot/pack_writer.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/random.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

using formats::StoredUnit;
using formats::Xxh128;

// Handing an item from thread to thread costs microseconds; an item is this much of raw bytes.
constexpr std::uint64_t kItemBytes = 256 << 10;
// Whoever opens a snapshot opens each of its packs. What more packs would have is stored again.
constexpr std::size_t kMaxShared = 128;
static_assert(kMaxShared < formats::kMaxContainers);

// A pack being written; dropping it unfinished removes it.
class DraftPack {
 public:
  static Result<DraftPack> begin(const Packs& packs) {
    DraftPack draft(packs.dir().get());
    if (::getrandom(draft.id_.data(), draft.id_.size(), 0) !=
        static_cast<ssize_t>(draft.id_.size())) {
      return sys_error("getrandom");
    }
    draft.name_ = ".draft-" + formats::to_hex(draft.id_);
    draft.file_ =
        VOLT_TRY(open_at(draft.dir_, draft.name_.c_str(), O_RDWR | O_CREAT | O_EXCL, 0444));
    // Says that its writer lives; who prunes looks at it.
    if (::flock(draft.file_.get(), LOCK_EX | LOCK_NB) != 0) return sys_error("flock", draft.name_);
    const std::vector<std::byte> head = formats::encode_pack_head(draft.id_);
    VOLT_TRY(write_all(draft.file_, head, 0, draft.name_));
    draft.written_ = draft.end_ = head.size();
    return draft;
  }
  DraftPack(DraftPack&& other) noexcept
      : dir_(other.dir_),
        id_(other.id_),
        name_(std::exchange(other.name_, {})),
        file_(std::move(other.file_)),
        written_(other.written_),
        end_(other.end_) {}
  DraftPack& operator=(DraftPack&&) = delete;
  ~DraftPack() {
    if (!name_.empty()) ::unlinkat(dir_, name_.c_str(), 0);
  }

  const formats::PackId& id() const { return id_; }
  std::uint64_t end() const { return end_; }

  // Not copied: it stays where it is until the next flush().
  void append(std::span<const std::byte> stored) {
    pending_.push_back(stored);
    end_ += stored.size();
  }
  Result<> flush() {
    VOLT_TRY(write_all(file_, pending_, written_, name_));
    written_ = end_;
    pending_.clear();
    return {};
  }

  Result<> read_back(std::uint64_t offset, std::span<std::byte> into) {
    VOLT_TRY(flush());
    return read_exact(file_, into, offset, name_);
  }

  Result<> finish(std::vector<formats::PackRecord> records) {
    std::ranges::sort(records, [](const auto& a, const auto& b) {
      return std::tie(a.sum, a.offset) < std::tie(b.sum, b.offset);
    });
    const std::vector<std::byte> table = formats::encode_pack_table(id_, records, end());
    append(table);
    VOLT_TRY(flush());
    VOLT_TRY(sync(file_, name_));
    const std::string name = pack_file_name(id_);
    if (::renameat(dir_, name_.c_str(), dir_, name.c_str()) != 0) return sys_error("rename", name);
    name_.clear();
    return {};
  }

 private:
  explicit DraftPack(int dir) : dir_(dir) {}

  int dir_;
  formats::PackId id_ = {};
  std::string name_;
  Fd file_;
  std::vector<std::span<const std::byte>> pending_;
  std::uint64_t written_ = 0, end_ = 0;  // of the file; with what is pending
};

// Of one thread.
struct Tools {
  ReadUnit read;
  UnitEncoder encoder;
  Packs::Comparer comparer;
};

// What one item's worker leaves for the writer.
struct Item {
  std::vector<std::byte> raw;     // all units of the item
  std::vector<std::byte> stored;  // as long: each unit's frame at the same place, if it has one
  struct Unit {
    std::optional<Packs::Found> found;
    std::size_t frame_bytes = 0;  // 0: raw
    Xxh128 stored_sum = {};
  };
  std::vector<Unit> units;
};

struct SumHash {
  std::size_t operator()(const Xxh128& sum) const {
    std::size_t word;
    std::memcpy(&word, sum.data(), sizeof word);
    return word;
  }
};

class Packer {
 public:
  Packer(const Packs& packs, std::span<const formats::IndexEntry> entries,
         std::span<const std::uint64_t> order, std::uint64_t unit_bytes)
      : packs_(packs),
        entries_(entries),
        order_(order),
        unit_bytes_(unit_bytes),
        per_item_(std::max<std::uint64_t>(1, kItemBytes / unit_bytes)) {
    packed_.units.resize(entries.size());
  }

  Result<PackedUnits> run(const MakeReader& make_reader, const PackOptions& options) {
    OrderedWork<Item, Tools> work(
        options.threads, [&] { return make_item(); },
        [&] { return Tools{make_reader(), UnitEncoder(options.level), {}}; });
    late_encoder_.emplace(options.level);
    VOLT_TRY(work.run(
        (order_.size() + per_item_ - 1) / per_item_,
        [this](Item& item, Tools& tools, std::uint64_t i) { return prepare(item, tools, i); },
        [this](Item& item, std::uint64_t i) { return store(item, i); }));
    if (draft_) {
      packed_.stored_bytes = draft_->end() - formats::kPackHeadBytes;
      VOLT_TRY(draft_->finish(std::move(records_)));
      VOLT_TRY(sync(packs_.dir(), "packs"));
    }
    return std::move(packed_);
  }

 private:
  Item make_item() const {
    Item item{.raw = std::vector<std::byte>(per_item_ * unit_bytes_),
              .stored = std::vector<std::byte>(per_item_ * unit_bytes_),
              .units = {}};
    item.units.resize(per_item_);
    return item;
  }

  std::span<const std::uint64_t> units_of(std::uint64_t item) const {
    const std::uint64_t first = item * per_item_;
    return order_.subspan(first, std::min(per_item_, order_.size() - first));
  }

  std::span<std::byte> part(std::vector<std::byte>& bytes, std::size_t k) const {
    return std::span(bytes).subspan(k * unit_bytes_, unit_bytes_);
  }

  // On any thread: read, look for it elsewhere, compress.
  Result<> prepare(Item& item, Tools& tools, std::uint64_t number) const {
    const auto units = units_of(number);
    for (std::size_t k = 0; k < units.size(); ++k) {
      const std::span<std::byte> raw = part(item.raw, k);
      VOLT_TRY(tools.read(units[k], raw));
      Item::Unit& unit = item.units[k];
      unit.found = VOLT_TRY(packs_.find(raw, entries_[units[k]].sum, tools.comparer));
      if (!unit.found) VOLT_TRY(compress(item, k, entries_[units[k]].sum, tools.encoder));
    }
    return {};
  }

  Result<> compress(Item& item, std::size_t k, const Xxh128& raw_sum, UnitEncoder& encoder) const {
    Item::Unit& unit = item.units[k];
    const std::span<std::byte> into = part(item.stored, k);
    unit.frame_bytes = VOLT_TRY(encoder.encode(part(item.raw, k), into));
    unit.stored_sum =
        unit.frame_bytes == 0 ? raw_sum : formats::xxh128(into.first(unit.frame_bytes));
    return {};
  }

  // On the caller's thread, in order.
  Result<> store(Item& item, std::uint64_t number) {
    const auto units = units_of(number);
    for (std::size_t k = 0; k < units.size(); ++k) {
      VOLT_TRY(store_unit(item, k, units[k]));
    }
    return draft_ ? draft_->flush() : Result<>{};
  }

  Result<> store_unit(Item& item, std::size_t k, std::uint64_t i) {
    Item::Unit& unit = item.units[k];
    const std::span<const std::byte> raw = part(item.raw, k);
    if (unit.found) {
      if (const auto container = container_of(packs_.list()[unit.found->pack]->id(), kMaxShared)) {
        packed_.units[i] = {unit.found->stored_sum, unit.found->offset, *container,
                            unit.found->stored_bytes};
        ++packed_.shared_units;
        return {};
      }
      VOLT_TRY(compress(item, k, entries_[i].sum, *late_encoder_));
    }
    if (const auto twin = VOLT_TRY(twin_in_draft(raw, entries_[i].sum))) {
      packed_.units[i] = packed_.units[*twin];
      ++packed_.shared_units;
      return {};
    }
    const std::span<const std::byte> stored =
        unit.frame_bytes == 0 ? raw : part(item.stored, k).first(unit.frame_bytes);
    return append(i, stored, unit.stored_sum);
  }

  Result<> append(std::uint64_t i, std::span<const std::byte> stored, const Xxh128& stored_sum) {
    if (!draft_) draft_.emplace(VOLT_TRY(DraftPack::begin(packs_)));
    if (!packed_.written) packed_.written = container_of(draft_->id(), kMaxShared + 1);
    const auto stored_bytes = static_cast<std::uint32_t>(stored.size());
    packed_.units[i] = {stored_sum, draft_->end(), *packed_.written, stored_bytes};
    records_.push_back(
        {entries_[i].sum, draft_->end(), stored_bytes, static_cast<std::uint32_t>(unit_bytes_)});
    written_.try_emplace(entries_[i].sum, i);
    draft_->append(stored);
    return {};
  }

  // The entry whose unit has these bytes and is in the pack being written.
  Result<std::optional<std::uint64_t>> twin_in_draft(std::span<const std::byte> raw,
                                                     const Xxh128& sum) {
    const auto same_sum = written_.find(sum);
    if (same_sum == written_.end()) return std::nullopt;
    const StoredUnit& unit = packed_.units[same_sum->second];
    comparer_.stored.resize(unit.stored_bytes);
    comparer_.raw.resize(raw.size());
    VOLT_TRY(draft_->read_back(unit.offset, comparer_.stored));
    VOLT_TRY(comparer_.decoder.decode(comparer_.stored, comparer_.raw));
    if (std::memcmp(comparer_.raw.data(), raw.data(), raw.size()) != 0) return std::nullopt;
    return same_sum->second;
  }

  // Its number; nullopt if it would be one too many.
  std::optional<std::uint32_t> container_of(const formats::PackId& pack, std::size_t limit) {
    formats::Container wanted = {formats::Container::Kind::kPack, {}};
    std::ranges::copy(pack, wanted.id.begin());
    const auto at = std::ranges::find(packed_.containers, wanted);
    if (at == packed_.containers.end()) {
      if (packed_.containers.size() >= limit) return std::nullopt;
      packed_.containers.push_back(wanted);
      return static_cast<std::uint32_t>(packed_.containers.size() - 1);
    }
    return static_cast<std::uint32_t>(at - packed_.containers.begin());
  }

  const Packs& packs_;
  const std::span<const formats::IndexEntry> entries_;
  const std::span<const std::uint64_t> order_;
  const std::uint64_t unit_bytes_;
  const std::uint64_t per_item_;

  PackedUnits packed_;
  std::optional<DraftPack> draft_;
  std::vector<formats::PackRecord> records_;
  // Of the thread that writes.
  Packs::Comparer comparer_;
  std::optional<UnitEncoder> late_encoder_;
  std::unordered_map<Xxh128, std::uint64_t, SumHash> written_;  // sum -> entry
};

}  // namespace

unsigned default_threads() {
  cpu_set_t allowed;
  if (::sched_getaffinity(0, sizeof allowed, &allowed) != 0) return 1;
  return std::clamp(static_cast<unsigned>(CPU_COUNT(&allowed)), 1U, 16U);
}

Result<PackedUnits> pack_units(const Packs& packs, std::span<const formats::IndexEntry> entries,
                               std::span<const std::uint64_t> order, std::uint64_t unit_bytes,
                               const MakeReader& make_reader, const PackOptions& options) {
  return Packer(packs, entries, order, unit_bytes).run(make_reader, options);
}

}  // namespace volt::snapshot
