// What benches of stored memory measure on: a kv guest whose working set is text-like (2 to 3 times
// smaller when compressed), captured into a store; and the few words every bench needs.
#pragma once

#include <time.h>

#include <algorithm>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "snapshot/capture.h"
#include "snapshot/restore.h"
#include "tools/guest/micro_image.h"

namespace volt::bench {

inline constexpr std::uint64_t kMiB = 1 << 20;
inline constexpr std::uint64_t kPage = 4096;

// 6: this host cannot do it.
template <typename T>
T must(Result<T> result) {
  if (!result) {
    std::fprintf(stderr, "bench: %s\n", result.error().context.c_str());
    std::exit(result.error().code == Code::kHostUnable ? 6 : 1);
  }
  if constexpr (!std::is_void_v<T>) return *std::move(result);
}

inline void need(bool true_, const char* what) {
  if (true_) return;
  std::fprintf(stderr, "bench: %s\n", what);
  std::exit(1);
}

inline double now_ms() {
  timespec now;
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

inline double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values.empty() ? 0 : values[values.size() / 2];
}

inline snapshot::Reference named(const char* name) {
  return must(snapshot::Reference::parse(name));
}

inline vmm::Call call_of(guest_abi::Function function, std::span<const std::uint64_t> words) {
  vmm::Call call;
  call.function = function;
  const auto bytes = std::as_bytes(words);
  call.arguments.assign(bytes.begin(), bytes.end());
  return call;
}

// Words of a small language; no two units of it are the same.
inline std::vector<std::byte> make_text(std::uint64_t bytes) {
  std::mt19937_64 random(20'24);
  std::vector<std::string> words;
  for (int i = 0; i < 4'000; ++i) {
    std::string& word = words.emplace_back();
    for (std::uint64_t n = 2 + random() % 8; n > 0; --n) {
      word += static_cast<char>('a' + std::min(random() % 26, random() % 26));
    }
    word += ' ';
  }
  std::vector<std::byte> text(bytes);
  for (std::size_t at = 0; at < bytes;) {
    const std::uint64_t pick = random();
    const std::string& word = words[std::min(pick % 4'000, (pick >> 32) % 4'000)];
    const std::size_t part = std::min<std::size_t>(word.size(), bytes - at);
    std::memcpy(text.data() + at, word.data(), part);
    at += part;
  }
  return text;
}

// Where page `page` of its working set is, and what it begins with.
struct TextGuest {
  std::uint64_t base = 0;
  std::vector<std::uint64_t> first_words;
};

inline TextGuest capture_text_guest(const vmm::Kvm& kvm, const snapshot::Store& store,
                                    const char* name, std::uint64_t ram_bytes,
                                    std::uint64_t working_set_bytes) {
  const vmm::BootConfig config = {.workload = guest_abi::Workload::kKv,
                                  .ram_bytes = ram_bytes,
                                  .working_set_bytes = working_set_bytes,
                                  .seed = 1};
  const auto booted = must(
      snapshot::boot_sandbox(kvm, {tools::micro_image(), config}, vmm::Deadline::in_ms(60'000)));
  const std::vector<std::byte> text = make_text(17 * kMiB);
  TextGuest guest = {.base = booted.sandbox->facts().guest.working_set_base(), .first_words = {}};
  for (std::uint64_t at = 0; at < working_set_bytes; at += kPage) {
    // A stride that is no multiple of a page: the text comes back shifted.
    const auto page = std::span(text).subspan(at / kPage * 4'099 % (16 * kMiB), kPage);
    must(booted.sandbox->memory().write(guest_abi::working_set_page(guest.base, at / kPage), page));
    guest.first_words.push_back(0);
    std::memcpy(&guest.first_words.back(), page.data(), 8);
  }
  must(snapshot::capture(kvm, *booted.sandbox, store, named(name), {}));
  return guest;
}

}  // namespace volt::bench
