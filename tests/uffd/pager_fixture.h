// A pager and VMs that are nothing but memory, all in one process unless a test forks.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>

#include <filesystem>
#include <string>

#include "tests/uffd/hand_source.h"
#include "uffd/pager_client.h"
#include "uffd/pager_service.h"

namespace volt::uffd {

inline constexpr char kImageName[] = "image-1";

// A directory for sockets, gone at the end.
class SocketDir {
 public:
  SocketDir() {
    char name[] = "/tmp/volt-pager-XXXXXX";
    path_ = ::mkdtemp(name);
  }
  SocketDir(const SocketDir&) = delete;
  SocketDir& operator=(const SocketDir&) = delete;
  ~SocketDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }
  std::string socket() const { return path_ + "/pager"; }

 private:
  std::string path_;
};

struct PagerTweaks {
  FaultOptions faults = {};
  std::optional<std::string> firecracker_image = std::nullopt;
  std::uint64_t hello_deadline_ms = 10'000;
  std::uint64_t stuck_ms = 5'000;
};

// Serves one image, of units as every test here knows them.
class TestPager {
 public:
  TestPager(const std::string& path, std::unique_ptr<PageSource> source,
            const PagerTweaks& tweaks = {})
      : image_(std::make_shared<ServedImage>()) {
    image_->name = kImageName;
    image_->image_bytes = kUnits * kUnit;
    image_->unit_bytes = kUnit;
    image_->documents = Fd{::memfd_create("documents", MFD_CLOEXEC)};
    image_->document_bytes = {0, 0};
    image_->server = serve(std::move(source), tweaks.faults);
    auto started = PagerService::start(
        {.path = path,
         .open = [image = image_](const std::string& name) -> Result<std::shared_ptr<ServedImage>> {
           if (name == kImageName) return image;
           return fail(Code::kNotFound, "no image '" + name + "'");
         },
         .firecracker_image = tweaks.firecracker_image,
         .hello_deadline_ms = tweaks.hello_deadline_ms,
         .stuck_ms = tweaks.stuck_ms,
         .log =
             [this](const std::string& line) {
               const std::lock_guard lock(mutex_);
               log_ += line + "\n";
             },
         .may_poison = tweaks.faults.lost_pages != LostPages::kForbid});
    if (!started) throw std::runtime_error(started.error().context);
    service_ = *std::move(started);
  }

  PagerService& service() { return *service_; }
  FaultServer& server() { return *image_->server; }
  // Until it has so many; the test's own deadline ends it otherwise.
  void await_connections(std::size_t count) const {
    while (service_->connections() != count) ::poll(nullptr, 0, 1);
  }
  std::string log() const {
    const std::lock_guard lock(mutex_);
    return log_;
  }

 private:
  mutable std::mutex mutex_;
  std::string log_;
  std::shared_ptr<ServedImage> image_;
  std::unique_ptr<PagerService> service_;
};

// Memory that shows the pager's image, as a VM process has it.
class MemoryVm {
 public:
  explicit MemoryVm(const std::string& path, pager::Mode mode = pager::Mode::kShared,
                    std::optional<LostPages> lost_pages = std::nullopt)
      : MemoryVm({.path = path, .image = kImageName, .mode = mode}, lost_pages,
                 must(Userfaultfd::open())) {}
  MemoryVm(PagerClient::Wish wish, std::optional<LostPages> lost_pages, Userfaultfd uffd)
      : client_(must(PagerClient::connect(wish))),
        map_(must(Mapping::create(kUnits * kUnit, PROT_READ | PROT_WRITE, MAP_PRIVATE,
                                  client_->image().get(), 0, "vm"))) {
    const bool shared = wish.mode == pager::Mode::kShared;
    must(shared ? uffd.register_missing(map_.bytes())
                : uffd.register_missing_and_minor(map_.bytes()));
    client_->close_files();
    must(client_->attach(std::move(uffd), {{.host = map_.bytes(), .image_offset = 0}}, lost_pages));
  }
  MemoryVm(const MemoryVm&) = delete;
  MemoryVm& operator=(const MemoryVm&) = delete;
  ~MemoryVm() {
    client_->forget();
    map_ = Mapping(must(Mapping::create(kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0, "")));
  }

  PagerClient& client() { return *client_; }
  std::span<std::byte> bytes() const { return map_.bytes(); }
  // Whether the unit is what it should be; false if it is lost. Throws at anything else.
  bool sees(std::uint64_t unit) const {
    std::vector<std::byte> got(kUnit);
    if (!guarded_copy(got, map_.bytes().subspan(unit * kUnit, kUnit))) return false;
    if (got != unit_bytes(unit)) throw std::runtime_error("other bytes than the unit's");
    return true;
  }

  template <typename T>
  static T must(Result<T> result) {
    if (!result) throw std::runtime_error(result.error().context);
    if constexpr (!std::is_void_v<T>) return *std::move(result);
  }

 private:
  std::unique_ptr<PagerClient> client_;
  Mapping map_;
};

}  // namespace volt::uffd
