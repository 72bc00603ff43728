#include "snapshot/pager_images.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "vmm/os/file.h"

namespace volt::snapshot {
namespace {

// In a memfd that nobody can change any more.
Result<Fd> sealed(const std::array<std::vector<std::byte>, 2>& documents) {
  Fd fd{::memfd_create("volt-documents", MFD_CLOEXEC | MFD_ALLOW_SEALING)};
  if (!fd.valid()) return sys_error("memfd_create");
  VOLT_TRY(write_all(fd, documents[0], 0, "documents"));
  VOLT_TRY(write_all(fd, documents[1], documents[0].size(), "documents"));
  constexpr int kSeals = F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL;
  if (::fcntl(fd.get(), F_ADD_SEALS, kSeals) != 0) return sys_error("seal documents");
  return fd;
}

}  // namespace

Result<PagerImages::Image> PagerImages::load(const Reference& reference) const {
  const auto snapshot =
      std::make_shared<const OpenedSnapshot>(VOLT_TRY(OpenedSnapshot::open(store_, reference)));
  const auto documents = VOLT_TRY(snapshot->documents());
  const std::uint64_t unit_bytes = snapshot->index().unit_bytes();
  auto image = VOLT_TRY(uffd::SharedImage::create(snapshot->memory_bytes(), unit_bytes));
  auto source = std::make_unique<SnapshotSource>(snapshot);
  const SnapshotSource* const raw = source.get();
  auto server = VOLT_TRY(uffd::FaultServer::start(std::move(image), std::move(source), faults_));
  Fd sealed_documents = VOLT_TRY(sealed(documents));
  auto served = std::make_shared<uffd::ServedImage>(
      uffd::ServedImage{.name = "sha256:" + formats::to_hex(snapshot->digest()),
                        .image_bytes = snapshot->memory_bytes(),
                        .unit_bytes = unit_bytes,
                        .documents = std::move(sealed_documents),
                        .document_bytes = {documents[0].size(), documents[1].size()},
                        .server = std::move(server)});
  return Image{std::move(served), raw, 0};
}

Result<std::shared_ptr<uffd::ServedImage>> PagerImages::open(const std::string& text) {
  const Reference reference = VOLT_TRY(Reference::parse(text));
  const std::string digest = VOLT_TRY(store_.digest_of(reference));
  const std::lock_guard lock(mutex_);
  auto found = images_.find(digest);
  const bool other = reference.digest && formats::to_hex(*reference.digest) != digest;
  if (found == images_.end() || other) {
    Image image = VOLT_TRY(load(reference));  // refuses a name that has another digest
    const std::string name = image.served->name.substr(sizeof "sha256:" - 1);
    found = images_.emplace(name, std::move(image)).first;
    drop_idle();
    found = images_.find(name);
  }
  found->second.last_use = ++uses_;
  return found->second.served;
}

// The one that was used longest ago goes first. What was just made is in no use yet, and stays.
void PagerImages::drop_idle() {
  for (;;) {
    std::size_t idle = 0;
    auto oldest = images_.end();
    for (auto at = images_.begin(); at != images_.end(); ++at) {
      if (at->second.served.use_count() != 1 || at->second.last_use == 0) continue;
      ++idle;
      if (oldest == images_.end() || at->second.last_use < oldest->second.last_use) oldest = at;
    }
    if (idle <= kIdleMax) return;
    images_.erase(oldest);
  }
}

std::string PagerImages::stats() const {
  const std::lock_guard lock(mutex_);
  nlohmann::ordered_json images = nlohmann::ordered_json::array();
  for (const auto& [digest, image] : images_) {
    const uffd::FaultCounts faults = image.served->server->counts();
    const SourceCounts source = image.source->counts();
    images.push_back({{"snapshot", image.served->name},
                      {"units", image.served->image_bytes / image.served->unit_bytes},
                      {"unit_bytes", image.served->unit_bytes},
                      {"clones", image.served->server->clones()},
                      {"faults", faults.faults},
                      {"units_filled", faults.units_filled},
                      {"units_failed", faults.units_failed},
                      {"woken_only", faults.woken_only},
                      {"prefetched", faults.prefetched},
                      {"units_read", source.units_read},
                      {"bytes_read", source.bytes_read},
                      {"cold_reads", source.cold_reads},
                      {"units_decoded", source.units_decoded},
                      {"units_verified", source.units_verified},
                      {"units_zero", source.units_zero},
                      {"units_wasted", source.units_wasted},
                      {"engine", nullptr}});
    if (const char* engine = image.source->engine()) images.back()["engine"] = engine;
    if (images.size() == 24) break;  // a message holds no more
  }
  nlohmann::ordered_json all = {{"schema", "volt.pager.stats/v1"}, {"images", std::move(images)}};
  if (faults_.times != nullptr) {
    all["faults_us"] = nlohmann::ordered_json::parse(times_document(*faults_.times));
  }
  return all.dump();
}

std::string times_document(const uffd::FaultTimes& times) {
  const auto us = [](std::uint64_t ns) {
    return std::round(static_cast<double>(ns) / 100) / 10;  // nothing is known better
  };
  return nlohmann::ordered_json{{"count", times.count()},
                                {"p50", us(times.quantile_ns(0.5))},
                                {"p90", us(times.quantile_ns(0.9))},
                                {"p99", us(times.quantile_ns(0.99))},
                                {"max", us(times.max_ns())}}
      .dump();
}

Result<std::string> pager_stats(const std::string& path) {
  const Fd socket = VOLT_TRY_IN("pager", uffd::pager::connect_to(path));
  VOLT_TRY(uffd::pager::send(socket.get(), uffd::pager::AskStats{}));
  uffd::pager::Inbox inbox;
  const auto answer =
      VOLT_TRY_IN("pager at " + path, uffd::pager::await(socket.get(), inbox, 10'000));
  const auto* const stats = std::get_if<uffd::pager::Stats>(&answer.message);
  if (stats == nullptr) return fail(Code::kCorrupt, "pager at " + path + ": its answer is none");
  return stats->json;
}

}  // namespace volt::snapshot
