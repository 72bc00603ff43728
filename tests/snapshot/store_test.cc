// The store by itself: snapshots here are a directory with one file.
#include "snapshot/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "tests/snapshot/fake_snapshot.h"
#include "vmm/os/file.h"

namespace volt::test {
namespace {

using snapshot::Draft;
using IfTaken = Store::IfTaken;

class StoreTest : public testing::Test {
 protected:
  const Store& store() const { return store_; }
  Result<> publish(const std::string& content, const char* name,
                   IfTaken if_taken = IfTaken::kRefuse) const {
    return publish_fake(store_, content, named(name), if_taken);
  }
  std::string content_of(const char* name) const {
    return fake_content(store_, named(name)).value();
  }

 private:
  TempDir dir_;
  Store store_{dir_.path() + "/not/there/yet"};
};

TEST_F(StoreTest, AnEmptyStoreHoldsNothingAndIsNotMadeByLooking) {
  EXPECT_TRUE(store().list().value().empty());
  EXPECT_FALSE(store().exists(named("a")));
  EXPECT_EQ(must_fail(store().find(named("a"))).code, Code::kNotFound);
  EXPECT_EQ(must_fail(store().digest_of(named("a"))).code, Code::kNotFound);
  EXPECT_EQ(must_fail(store().remove(named("a"))).code, Code::kNotFound);
  store().sweep();
  EXPECT_NE(::access(store().path().c_str(), F_OK), 0);
}

TEST_F(StoreTest, APublishedSnapshotIsFoundByNameByDigestAndByBoth) {
  must(publish("one", "a:v1"));
  const std::string digest = formats::to_hex(digest_of_fake("one"));
  EXPECT_EQ(store().digest_of(named("a:v1")).value(), digest);
  EXPECT_TRUE(store().find(named("a:v1")));
  EXPECT_TRUE(store().find(named("sha256:" + digest)));
  EXPECT_TRUE(store().find(named("a:v1@sha256:" + digest)));
  EXPECT_EQ(content_of("a:v1"), "one");
}

TEST_F(StoreTest, WhatIsNotFoundIsAnsweredWithWhatThereIs) {
  must(publish("one", "a:v1"));
  must(publish("two", "b"));
  const Error error = must_fail(store().find(named("c")));
  EXPECT_EQ(error.code, Code::kNotFound);
  EXPECT_TRUE(contains(error.context, "'c:latest'")) << error.context;
  EXPECT_TRUE(contains(error.context, "a:v1, b:latest")) << error.context;
}

TEST_F(StoreTest, TheListHasEveryNameWithItsDigest) {
  must(publish("two", "b"));
  must(publish("one", "a:v1"));
  const auto listed = store().list().value();
  ASSERT_EQ(listed.size(), 2U);
  EXPECT_EQ(listed[0].reference.text(), "a:v1");
  EXPECT_EQ(listed[0].digest_hex, formats::to_hex(digest_of_fake("one")));
  EXPECT_EQ(listed[1].reference.text(), "b:latest");
}

TEST_F(StoreTest, ATakenNameIsAConflictAndKeepsWhatItHad) {
  must(publish("one", "a"));
  const Error error = must_fail(publish("two", "a"));
  EXPECT_EQ(error.code, Code::kConflict);
  EXPECT_TRUE(contains(error.context, "a:latest")) << error.context;
  EXPECT_EQ(content_of("a"), "one");
  EXPECT_EQ(entries_of(store()).size(), 2U) << "the refused snapshot is still there";
}

TEST_F(StoreTest, ReplacingANameRemovesWhatItHadBefore) {
  must(publish("one", "a", IfTaken::kReplace));
  must(publish("two", "a", IfTaken::kReplace));
  EXPECT_EQ(content_of("a"), "two");
  EXPECT_EQ(entries_of(store()), (std::vector<std::string>{
                                     "snapshots/" + formats::to_hex(digest_of_fake("two")),
                                     "names/a:latest",
                                 }));
}

TEST_F(StoreTest, ASnapshotWithTwoNamesLivesUntilTheLastIsRemoved) {
  must(publish("one", "a"));
  const std::string target = "../snapshots/" + store().digest_of(named("a")).value();
  ASSERT_EQ(::symlink(target.c_str(), (store().path() + "/names/b:v2").c_str()), 0);
  must(store().remove(named("a")));
  EXPECT_EQ(must_fail(store().find(named("a"))).code, Code::kNotFound);
  EXPECT_EQ(content_of("b:v2"), "one");
  must(store().remove(named("b:v2")));
  EXPECT_TRUE(entries_of(store()).empty());
}

TEST_F(StoreTest, RemovingANameRemovesItsSnapshotAndNoOther) {
  must(publish("one", "a"));
  must(publish("two", "b"));
  must(store().remove(named("a")));
  EXPECT_EQ(content_of("b"), "two");
  EXPECT_EQ(entries_of(store()).size(), 2U);
}

TEST_F(StoreTest, ADigestIsNoNameToRemove) {
  must(publish("one", "a"));
  const std::string digest = store().digest_of(named("a")).value();
  EXPECT_EQ(must_fail(store().remove(named("sha256:" + digest))).code, Code::kInvalid);
  EXPECT_EQ(content_of("a"), "one");
}

TEST_F(StoreTest, ADroppedDraftLeavesNothing) {
  {
    const Draft draft = must(store().begin());
    must(draft.create_file("memory"));
    EXPECT_EQ(entries_of(store()).size(), 1U);
  }
  EXPECT_TRUE(entries_of(store()).empty());
}

TEST_F(StoreTest, ADraftsFilesAreReadOnlyAndCloseOnExec) {
  const Draft draft = must(store().begin());
  const Fd file = must(draft.create_file("memory"));
  EXPECT_NE(::fcntl(file.get(), F_GETFD) & FD_CLOEXEC, 0);
  EXPECT_NE(::fcntl(draft.dir().get(), F_GETFD) & FD_CLOEXEC, 0);
  struct stat info = {};
  ASSERT_EQ(::fstat(file.get(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0444U);
  EXPECT_FALSE(draft.create_file("memory")) << "a file of a snapshot is written once";
}

// What a writer that was killed leaves: a draft whose lock is gone, with files in it.
std::string leave_dead_draft(const Store& store) {
  const std::string path = store.path() + "/snapshots/.draft-1-dead";
  must(make_directories(path));
  write_file(path + "/memory", std::as_bytes(std::span("bytes")));
  return path;
}

TEST_F(StoreTest, TheNextWriterRemovesWhatADeadOneLeftAndNothingOfALivingOne) {
  must(publish("one", "a"));
  const Draft living = must(store().begin());
  must(living.create_file("memory"));
  const std::string dead = leave_dead_draft(store());
  const std::string nameless = store().path() + "/snapshots/" + std::string(64, 'e');
  must(make_directories(nameless));
  write_file(nameless + "/manifest", std::as_bytes(std::span("bytes")));

  const Draft next = must(store().begin());
  EXPECT_NE(::access(dead.c_str(), F_OK), 0);
  EXPECT_NE(::access(nameless.c_str(), F_OK), 0);
  EXPECT_EQ(::faccessat(living.dir().get(), "memory", F_OK, 0), 0) << "a living writer lost a file";
  EXPECT_EQ(content_of("a"), "one");
}

TEST_F(StoreTest, AKilledWritersDraftIsSweptOnceItIsDead) {
  int ready[2];
  ASSERT_EQ(::pipe2(ready, O_CLOEXEC), 0);
  const pid_t writer = ::fork();
  ASSERT_GE(writer, 0);
  if (writer == 0) {
    const Result<Draft> draft = store().begin();
    const char told = draft && draft->create_file("memory") ? 'y' : 'n';
    [[maybe_unused]] const ssize_t put = ::write(ready[1], &told, 1);
    for (;;) ::pause();
  }
  char told = 0;
  ASSERT_EQ(::read(ready[0], &told, 1), 1);
  EXPECT_EQ(told, 'y');
  store().sweep();
  EXPECT_EQ(entries_of(store()).size(), 1U) << "swept under a living writer";
  ::kill(writer, SIGKILL);
  ASSERT_EQ(::waitpid(writer, nullptr, 0), writer);
  store().sweep();
  EXPECT_TRUE(entries_of(store()).empty());
  ::close(ready[0]);
  ::close(ready[1]);
}

// A writer killed between making its new link and putting it in place.
TEST_F(StoreTest, AHalfReplacedNameIsSweptWhenItsWriterIsDead) {
  must(publish("one", "a"));
  const pid_t gone = ::fork();
  ASSERT_GE(gone, 0);
  if (gone == 0) ::_exit(0);
  ASSERT_EQ(::waitpid(gone, nullptr, 0), gone);
  const std::string names = store().path() + "/names/.draft-";
  const std::string dead = names + std::to_string(gone) + "-0123";
  const std::string living = names + std::to_string(::getpid()) + "-0123";
  ASSERT_EQ(::symlink("../snapshots/x", dead.c_str()), 0);
  ASSERT_EQ(::symlink("../snapshots/x", living.c_str()), 0);
  EXPECT_EQ(store().list().value().size(), 1U);
  store().sweep();
  EXPECT_EQ(::faccessat(AT_FDCWD, dead.c_str(), F_OK, AT_SYMLINK_NOFOLLOW), -1);
  EXPECT_EQ(::faccessat(AT_FDCWD, living.c_str(), F_OK, AT_SYMLINK_NOFOLLOW), 0);
}

TEST_F(StoreTest, ANameWhoseFilesAreGoneIsDamageAndCanBeRemoved) {
  must(make_directories(store().path() + "/names"));
  ASSERT_EQ(::symlink("../snapshots/x", (store().path() + "/names/a:latest").c_str()), 0);
  const Error error = must_fail(store().find(named("a")));
  EXPECT_EQ(error.code, Code::kCorrupt);
  EXPECT_TRUE(contains(error.context, "a:latest")) << error.context;
  must(store().remove(named("a")));
  EXPECT_TRUE(entries_of(store()).empty());
}

// Each draft needs a descriptor; without one, begin() must say so and leave nothing.
TEST_F(StoreTest, WithoutDescriptorsNoDraftIsBegunAndNothingIsLeft) {
  must(publish("one", "a"));
  const Store& whole = store();
  rlimit before = {};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  const int lowest_free = ::dup(0);
  ASSERT_GE(lowest_free, 0);
  ::close(lowest_free);
  for (const int spare : {0, 1, 2}) {
    const rlimit few = {.rlim_cur = static_cast<rlim_t>(lowest_free + spare),
                        .rlim_max = before.rlim_max};
    {
      // Nothing else in between: a sanitizer's own checks would lack descriptors, too.
      ::setrlimit(RLIMIT_NOFILE, &few);
      const Result<Draft> begun = whole.begin();
      ::setrlimit(RLIMIT_NOFILE, &before);
      EXPECT_EQ(begun.has_value(), spare > 0);
    }
    EXPECT_EQ(entries_of(whole).size(), 2U) << "left by a writer with " << spare << " spare";
  }
}

}  // namespace
}  // namespace volt::test
