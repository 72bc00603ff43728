// What a process with a VM does to be served by another one: connects, hands its userfaultfd over,
// and from then on watches the pager, which may die, or live and do nothing any more.
//
// A pager that dies leaves threads asleep in faults, which nothing but our own descriptor of the
// userfaultfd can wake. A pager that comes back at the same path within kTakeOverMs gets it again.
// Its image is another memfd, and what the dead one's holds beyond what the VM has seen is not
// worth much; so the new pager copies: every fault is a page that the VM lacks, what it has stays.
// If none comes back, we answer the faults ourselves: each page that is asked for is closed for
// good, so whoever needs it stops, and whoever needs none goes on.
//
// A pager that is stopped, or stuck, has no dead socket to show. It is pinged when it has said
// nothing for a while; one that does not answer that either counts as dead. The kernel does not
// tell a process which of its threads sleep in a fault, so it is asked whether anybody needs it or
// not: two small messages, on the threads that wait for messages.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "uffd/pager_socket.h"
#include "uffd/userfaultfd.h"

namespace volt::uffd {

class PagerClient final {
 public:
  static constexpr std::uint64_t kTakeOverMs = 800;

  struct Wish {
    std::string path;
    std::string image;
    pager::Mode mode = pager::Mode::kShared;
    // A pager that says nothing for so long counts as dead. Asked at half time, it has as long to
    // answer as its source has for a page.
    std::uint64_t silent_ms = 20'000;
  };
  // Asks for an image. The pager's refusal is the error.
  static Result<std::unique_ptr<PagerClient>> connect(Wish wish);
  // A handler written for Firecracker: it is told nothing but regions, and tells nothing.
  static Result<std::unique_ptr<PagerClient>> connect_handler(std::string path);
  // After forget() and after the views are unmapped.
  ~PagerClient();

  // What the pager gave for the image; nothing from a handler.
  const pager::Welcome& welcome() const { return welcome_; }
  const Fd& documents() const { return documents_; }
  const Fd& image() const { return image_; }
  // Closed once the image has been mapped.
  void close_files();

  // `views` are mapped and registered with `uffd`; they are served when this returns.
  Result<> attach(Userfaultfd uffd, std::vector<View> views,
                  std::optional<LostPages> lost_pages = std::nullopt);
  // When it returns nothing touches the views any more, here or there. On any thread, once.
  void forget();

  // Why a page of this VM could not be had. What the pager said before it stopped a guest is known
  // when the guest has stopped.
  std::optional<Error> failure();
  // How often a new pager took over.
  std::uint64_t takeovers() const;

 private:
  enum class State { kServed, kAlone, kRefusing, kGone };

  PagerClient(Wish wish, bool handler) : wish_(std::move(wish)), handler_(handler) {}
  Result<> greet(std::uint64_t timeout_ms);
  Result<> hand_over(std::uint64_t timeout_ms);
  std::string name() const;

  void watch();
  State step(State state);
  State serve();
  State ask();
  State look_for_another();
  State refuse();
  bool hear();  // false: the connection has ended
  void take(const pager::Message& message);
  void note(std::string why);
  void close_unit(std::uint64_t unit);
  void close_page(std::uint64_t address);
  void wake_all();

  Wish wish_;
  const bool handler_;
  int pid_ = 0;  // of the pager
  pager::Welcome welcome_ = {};
  Fd documents_, image_;
  Fd stop_;  // an eventfd
  std::vector<View> views_;
  LostPages lost_pages_ = LostPages::kForbid;

  mutable std::mutex mutex_;  // of what follows
  Fd socket_;
  pager::Inbox inbox_;
  Userfaultfd uffd_{Fd()};
  std::optional<Error> failure_;
  bool serving_ = false;  // what comes on the socket is for hear()
  bool forgotten_ = false;
  bool asked_ = false;  // by the last ping, and nothing was heard since
  std::string gone_;    // in words: how the pager went
  std::uint64_t takeovers_ = 0;

  std::thread thread_;
};

}  // namespace volt::uffd
