// Frames of both sides: what one writes the other reads, and nothing else is taken.
#include "vmm/agent_frames.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "tools/guest/init/frames.h"

namespace volt::vmm {
namespace {

using agent_abi::Head;
using agent_abi::Type;
using Bytes = std::vector<std::byte>;

template <typename T>
Bytes bytes_of(const T& value, std::string_view text = {}) {
  Bytes bytes(sizeof value + text.size());
  std::memcpy(bytes.data(), &value, sizeof value);
  std::ranges::copy(std::as_bytes(std::span(text)), bytes.begin() + sizeof value);
  return bytes;
}

// As the host receives it.
Result<AgentFrame> decode(Type type, const Bytes& payload) {
  const Bytes frame = encode_agent_frame(type, payload);
  const Head head = VOLT_TRY(decode_agent_head(std::span(frame).first<sizeof(Head)>()));
  return decode_agent_frame(head, payload);
}

void expect_corrupt(Type type, const Bytes& payload) {
  const auto frame = decode(type, payload);
  ASSERT_FALSE(frame) << static_cast<std::uint32_t>(type);
  EXPECT_EQ(frame.error().code, Code::kCorrupt);
  EXPECT_TRUE(frame.error().context.starts_with("agent: ")) << frame.error().context;
}

TEST(AgentFramesTest, EveryAnswerOfAGuestIsRead) {
  const auto ready = decode(Type::kReady, bytes_of(agent_abi::Ready{agent_abi::kVersion, 3, 4}));
  EXPECT_EQ(std::get<agent_abi::Ready>(*ready).failed_services, 3U);
  const auto output = decode(Type::kStderr, Bytes(5));
  EXPECT_TRUE(std::get<AgentOutput>(*output).is_error);
  EXPECT_EQ(std::get<AgentOutput>(*output).bytes.size(), 5U);
  const auto exit = decode(Type::kExited, bytes_of(agent_abi::Exited{2, 9}));
  EXPECT_EQ(std::get<AgentExit>(*exit).shell_code(), 137);
  const auto failed = decode(Type::kFailed, bytes_of(agent_abi::Failed{EPERM, 3}, "no\x1b[2J"));
  EXPECT_EQ(std::get<AgentFailure>(*failed).text, "no?[2J") << "a terminal takes no orders of it";
  EXPECT_EQ(std::get<AgentFailure>(*failed).stage, agent_abi::Stage::kResume);
  EXPECT_TRUE(decode(Type::kStarted, bytes_of(agent_abi::Started{1})));
  EXPECT_TRUE(decode(Type::kCredit, bytes_of(agent_abi::Credit{1})));
  EXPECT_TRUE(decode(Type::kFrozen, bytes_of(agent_abi::Frozen{1})));
  EXPECT_TRUE(decode(Type::kResumed, bytes_of(agent_abi::Resumed{-1, 1, 2, 3})));
}

TEST(AgentFramesTest, ValuesNoGuestCouldMeanAreCorrupt) {
  expect_corrupt(Type::kStarted, bytes_of(agent_abi::Started{0}));
  expect_corrupt(Type::kStarted, bytes_of(agent_abi::Started{0x8000'0000}));
  expect_corrupt(Type::kCredit, bytes_of(agent_abi::Credit{0}));
  expect_corrupt(Type::kCredit, bytes_of(agent_abi::Credit{agent_abi::kStdinWindow + 1}));
  expect_corrupt(Type::kExited, bytes_of(agent_abi::Exited{0, 0}));
  expect_corrupt(Type::kExited, bytes_of(agent_abi::Exited{1, 256}));
  expect_corrupt(Type::kExited, bytes_of(agent_abi::Exited{2, 0}));
  expect_corrupt(Type::kExited, bytes_of(agent_abi::Exited{2, 65}));
  expect_corrupt(Type::kFailed, bytes_of(agent_abi::Failed{0, 1}));
  expect_corrupt(Type::kFailed, bytes_of(agent_abi::Failed{1, 5}));
  const auto later =
      decode(Type::kReady, bytes_of(agent_abi::Ready{agent_abi::kVersion + 1, 0, 0}));
  ASSERT_FALSE(later);
  EXPECT_EQ(later.error().code, Code::kUnsupported);
}

// Every length of every type: only those of the contract are taken, before anything is read.
TEST(AgentFramesTest, LengthsAreThoseOfTheirTypes) {
  for (std::uint32_t type = 0; type < 300; ++type) {
    for (const std::uint32_t length : {0U, 1U, 4U, 8U, 12U, 16U, 97U, 65'536U, 65'537U, ~0U}) {
      const Bytes head = bytes_of(Head{length, type});
      const auto decoded = decode_agent_head(std::span(head).first<sizeof(Head)>());
      EXPECT_EQ(decoded.has_value(), type >= 257 && agent_abi::length_fits(type, length))
          << type << " " << length;
      const Head wanted = {length, type};
      const bool taken = static_cast<bool>(init::check_head(wanted, init::Expected::kRequest)) ||
                         static_cast<bool>(init::check_head(wanted, init::Expected::kCommandInput));
      EXPECT_EQ(taken, type >= 1 && type <= 8 && agent_abi::length_fits(type, length));
    }
  }
  EXPECT_FALSE(agent_abi::length_fits(static_cast<std::uint32_t>(Type::kStdout), 65'537));
}

std::span<const std::byte> payload_of(const Bytes& frame) {
  return std::span(frame).subspan(sizeof(Head));
}

TEST(AgentFramesTest, AGuestReadsTheCommandThatWasWritten) {
  const Bytes frame = *encode_exec({.arguments = {"echo", "", "b"},
                                    .variables = {"A=1", "B="},
                                    .directory = "/tmp",
                                    .uid = 7,
                                    .terminal = agent_abi::Resize{24, 80}});
  init::Exec exec;
  ASSERT_TRUE(init::decode(payload_of(frame), exec));
  EXPECT_STREQ(exec.directory, "/tmp");
  EXPECT_TRUE(exec.tty());
  EXPECT_EQ(exec.head.columns, 80);
  EXPECT_EQ(exec.head.uid, 7U);
  const std::string_view strings(reinterpret_cast<const char*>(exec.strings.data()),
                                 exec.strings.size());
  EXPECT_EQ(strings, std::string_view("echo\0\0b\0A=1\0B=\0", 15));
}

TEST(AgentFramesTest, AGuestTakesNoCommandThatIsCutOrOverfull) {
  const Bytes whole = *encode_exec({.arguments = {"a", "b"}, .variables = {"C=d"}});
  const std::span<const std::byte> payload = payload_of(whole);
  init::Exec exec;
  for (std::size_t n = sizeof(agent_abi::ExecHead); n < payload.size(); ++n)
    EXPECT_FALSE(init::decode(payload.first(n), exec)) << n;
  Bytes longer(payload.begin(), payload.end());
  longer.push_back({});
  EXPECT_FALSE(init::decode(longer, exec));
  for (const std::size_t field : {0U, 4U, 20U, 24U}) {
    Bytes changed(payload.begin(), payload.end());
    changed[field] ^= std::byte{0x40};
    EXPECT_FALSE(init::decode(changed, exec)) << field;
  }
}

TEST(AgentFramesTest, CommandsThatFitIntoNoFrameAreInvalid) {
  const AgentCommand wrong[] = {{.arguments = {}},
                                {.arguments = {""}},
                                {.arguments = {std::string("a\0b", 3)}},
                                {.arguments = {"a"}, .variables = {"novalue"}},
                                {.arguments = {"a"}, .variables = {"=value"}},
                                {.arguments = {"a"}, .variables = {""}},
                                {.arguments = std::vector<std::string>(4097, "a")},
                                {.arguments = {std::string(65'536, 'a')}}};
  for (const AgentCommand& command : wrong) {
    const auto frame = encode_exec(command);
    ASSERT_FALSE(frame);
    EXPECT_EQ(frame.error().code, Code::kInvalid);
  }
}

TEST(AgentFramesTest, AGuestReadsTheIdentityThatWasWritten) {
  AgentIdentity identity = {};
  identity.generation[15] = 9;
  identity.wall_ns = 123;
  identity.tsc = 7;
  identity.tsc_khz = 8;
  identity.hostname = std::string(64, 'h');
  const Bytes frame = *encode_resume(identity, 5);
  init::ResumeRequest request;
  ASSERT_TRUE(init::decode(payload_of(frame), request));
  EXPECT_EQ(request.hostname, identity.hostname);
  EXPECT_EQ(request.head.generation[15], 9);
  EXPECT_EQ(request.head.wall_ns, 123U);
  EXPECT_EQ(request.head.tsc, 7U);
  EXPECT_EQ(request.head.tsc_khz, 8U);
  EXPECT_EQ(request.head.timeout_ms, 5U);
  identity.hostname += 'h';
  EXPECT_FALSE(encode_resume(identity, 5));
  identity.hostname = "a";
  identity.wall_ns = UINT64_MAX;
  EXPECT_FALSE(encode_resume(identity, 5));
  identity.wall_ns = 123;
  identity.tsc_khz = UINT64_MAX;
  EXPECT_EQ(init::decode(payload_of(*encode_resume(identity, 5)), request).error, EPROTO);
}

TEST(AgentFramesTest, AGuestRefusesOtherVersionsByName) {
  agent_abi::Freeze freeze = {agent_abi::kVersion + 1, 0, 0};
  const init::Checked later = init::decode(bytes_of(freeze), freeze);
  EXPECT_EQ(later.error, EPROTONOSUPPORT);
  agent_abi::Shutdown shutdown = {agent_abi::kVersion, 2, 0};
  EXPECT_EQ(init::decode(bytes_of(shutdown), shutdown).error, EPROTO);
  agent_abi::Signal signal = {65};
  EXPECT_EQ(init::decode(bytes_of(signal), signal).error, EPROTO);
}

}  // namespace
}  // namespace volt::vmm
