#include "snapshot/packs.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "vmm/file_lock.h"
#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

constexpr char kPrefix[] = "pack-";
constexpr std::uint64_t kMapAlign = 4096;

int hex_value(char digit) {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

Result<bool> same_bytes(const Pack& pack, const formats::PackRecord& record,
                        std::span<const std::byte> raw, Packs::Comparer& comparer) {
  if (comparer.pack != &pack) {
    comparer.file = VOLT_TRY(pack.file());
    comparer.pack = &pack;
  }
  comparer.stored.resize(record.stored_bytes);
  comparer.raw.resize(raw.size());
  VOLT_TRY(read_exact(comparer.file, comparer.stored, record.offset, "pack"));
  VOLT_TRY(comparer.decoder.decode(comparer.stored, comparer.raw));
  return std::memcmp(comparer.raw.data(), raw.data(), raw.size()) == 0;
}

}  // namespace

std::string pack_file_name(const formats::PackId& id) {
  return kPrefix + formats::to_hex(id);
}

std::optional<formats::PackId> pack_id_of(const std::string& file_name) {
  formats::PackId id;
  if (!file_name.starts_with(kPrefix)) return std::nullopt;
  const std::string hex = file_name.substr(sizeof kPrefix - 1);
  if (hex.size() != id.size() * 2) return std::nullopt;
  for (std::size_t i = 0; i < id.size(); ++i) {
    const int high = hex_value(hex[2 * i]);
    const int low = hex_value(hex[2 * i + 1]);
    if (high < 0 || low < 0) return std::nullopt;
    id[i] = static_cast<std::byte>(high * 16 + low);
  }
  return id;
}

Result<std::unique_ptr<Pack>> Pack::open(int dir_fd, const std::string& name) {
  const Fd file = VOLT_TRY(open_at(dir_fd, name.c_str(), O_RDONLY));
  const std::uint64_t size = VOLT_TRY(file_size(file, name));
  if (size < formats::kPackHeadBytes + formats::kPackTailBytes) {
    return fail(Code::kCorrupt, name + ": " + std::to_string(size) + " bytes are no pack");
  }
  std::array<std::byte, formats::kPackHeadBytes> head;
  std::array<std::byte, formats::kPackTailBytes> tail;
  VOLT_TRY(read_exact(file, head, 0, name));
  VOLT_TRY(read_exact(file, tail, size - tail.size(), name));
  const formats::PackId id = VOLT_TRY_IN(name, formats::decode_pack_head(head));
  const formats::PackTail end = VOLT_TRY_IN(name, formats::decode_pack_tail(tail, size));
  if (id != end.id || pack_file_name(id) != name) {
    return fail(Code::kCorrupt, name + ": id: head, tail and name do not agree");
  }
  return std::unique_ptr<Pack>(new Pack(dir_fd, name, end, size));
}

Result<Fd> Pack::file() const {
  return open_at(dir_fd_, name_.c_str(), O_RDONLY);
}

Result<formats::PackTable> Pack::map_table() const {
  const Fd opened = VOLT_TRY(file());
  const std::uint64_t from = tail_.table_offset / kMapAlign * kMapAlign;
  mapped_ = std::make_unique<Mapping>(VOLT_TRY(Mapping::create(
      bytes_ - from, PROT_READ, MAP_PRIVATE, opened.get(), from, "table of a pack")));
  const std::uint64_t bytes = bytes_ - formats::kPackTailBytes - tail_.table_offset;
  return formats::PackTable::open(mapped_->bytes().subspan(tail_.table_offset - from, bytes),
                                  tail_);
}

Result<const formats::PackTable*> Pack::table() const {
  const std::lock_guard lock(mutex_);
  if (!table_) table_ = map_table();
  if (!*table_) return std::unexpected(within(name_, table_->error()));
  return &**table_;
}

Result<Packs> Packs::open(const std::string& path, Lock lock) {
  VOLT_TRY(make_directories(path.substr(0, path.rfind('/'))));
  // Guest memory is for its owner.
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return sys_error("mkdir", path);
  Packs packs(path, VOLT_TRY(open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY)));
  const bool locked =
      VOLT_TRY(vmm::lock_soon(packs.dir_, lock == Lock::kShared ? LOCK_SH : LOCK_EX));
  if (!locked) {
    return fail(Code::kBusy, lock == Lock::kShared
                                 ? "the packs are being pruned"
                                 : "a snapshot is being packed, which may use any pack");
  }
  VOLT_TRY(packs.look_again());
  return packs;
}

Result<> Packs::look_again() {
  packs_.clear();
  damaged_.clear();
  for (const std::string& entry : VOLT_TRY(directory_entries(path_))) {
    if (!pack_id_of(entry)) continue;
    Result<std::unique_ptr<Pack>> pack = Pack::open(dir_.get(), entry);
    if (pack) {
      packs_.push_back(*std::move(pack));
    } else {
      damaged_.push_back(std::move(pack).error());
    }
  }
  return {};
}

void Packs::leave_out(const formats::PackId& id) {
  std::erase_if(packs_, [&](const auto& pack) { return pack->id() == id; });
}

// A pack that cannot be read is no place to share from, and no reason not to store: verify names
// it.
Result<std::optional<Packs::Found>> Packs::find(std::span<const std::byte> raw,
                                                const formats::Xxh128& sum,
                                                Comparer& comparer) const {
  for (std::size_t i = 0; i < packs_.size(); ++i) {
    const Result<const formats::PackTable*> table = packs_[i]->table();
    if (!table) continue;
    const auto record = (*table)->find(sum);
    if (!record || !*record || (*record)->raw_bytes != raw.size()) continue;
    const Result<bool> same = same_bytes(*packs_[i], **record, raw, comparer);
    if (!same || !*same) continue;
    return Found{i, (*record)->offset, (*record)->stored_bytes, formats::xxh128(comparer.stored)};
  }
  return std::nullopt;
}

void remove_unused_packs(const std::string& path) {
  const Result<Fd> dir = open_at(AT_FDCWD, path.c_str(), O_RDONLY | O_DIRECTORY);
  if (!dir || ::flock(dir->get(), LOCK_EX | LOCK_NB) != 0) return;
  const auto entries = directory_entries(path);
  if (!entries) return;
  for (const std::string& entry : *entries) {
    struct stat info;
    if (pack_id_of(entry) && ::fstatat(dir->get(), entry.c_str(), &info, 0) == 0 &&
        info.st_nlink == 1) {
      ::unlinkat(dir->get(), entry.c_str(), 0);
    }
  }
}

}  // namespace volt::snapshot
