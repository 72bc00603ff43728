#include "tools/options.h"

#include <gtest/gtest.h>

#include "tools/commands.h"

namespace volt::tools {
namespace {

constexpr Option kOptions[] = {{"--name", "NAME", "what to call it"},
                               {"--count", "N", "how many"},
                               {"--memory", "SIZE", "how large"},
                               {"--deep", "", "look at all of it"},
                               {"-n", "N", "how often"}};

Result<Arguments> parse_words(std::vector<std::string> words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  return parse(kOptions, pointers);
}

std::string refusal(std::vector<std::string> words) {
  const auto parsed = parse_words(std::move(words));
  if (parsed) return "accepted";
  EXPECT_EQ(parsed.error().code, Code::kInvalid);
  return parsed.error().context;
}

TEST(ParseTest, ValuesComeAfterASpaceOrAnEqualsSign) {
  EXPECT_EQ(parse_words({"--name", "a"})->get("--name"), "a");
  EXPECT_EQ(parse_words({"--name=a"})->get("--name"), "a");
  EXPECT_EQ(parse_words({"--name=a=b"})->get("--name"), "a=b");
  EXPECT_EQ(parse_words({"--name="})->get("--name", "other"), "");
  EXPECT_EQ(parse_words({"-n", "3"})->get("-n"), "3");
}

TEST(ParseTest, OptionsAndOperandsMayBeMixed) {
  const auto parsed = parse_words({"one", "--deep", "two", "--name", "a", "three"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->positional(), (std::vector<std::string>{"one", "two", "three"}));
  EXPECT_TRUE(parsed->has("--deep"));
  EXPECT_FALSE(parsed->json());
}

TEST(ParseTest, AfterTwoDashesAllAreOperands) {
  const auto parsed = parse_words({"--json", "--", "--deep", "-5", "--", "--json"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->positional(), (std::vector<std::string>{"--deep", "-5", "--", "--json"}));
  EXPECT_TRUE(parsed->json());
  EXPECT_FALSE(parsed->has("--deep"));
}

TEST(ParseTest, AloneADashAndAnEmptyWordAreOperands) {
  EXPECT_EQ(parse_words({"-", ""})->positional(), (std::vector<std::string>{"-", ""}));
}

TEST(ParseTest, OfAnOptionGivenTwiceTheLastCountsAndAllAreKept) {
  const auto parsed = parse_words({"--name", "a", "--name=b"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->get("--name"), "b");
  EXPECT_EQ(parsed->all("--name"), (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(parsed->all("--count").empty());
}

TEST(ParseTest, AValueMayLookLikeAnOption) {
  EXPECT_EQ(parse_words({"--name", "--deep"})->get("--name"), "--deep");
}

TEST(ParseTest, ShortHelpIsHelp) {
  EXPECT_TRUE(parse_words({"-h"})->has("--help"));
  EXPECT_TRUE(parse_words({"--help"})->has("--help"));
}

TEST(ParseTest, RefusalsNameTheOption) {
  EXPECT_EQ(refusal({"--bogus=1"}),
            "unknown option '--bogus'; an operand that begins with '-' goes after '--'");
  EXPECT_EQ(refusal({"-5"}),
            "unknown option '-5'; an operand that begins with '-' goes after '--'");
  EXPECT_EQ(refusal({"--nam", "a"}),
            "unknown option '--nam'; an operand that begins with '-' goes after '--'");
  EXPECT_EQ(refusal({"--name"}), "option '--name' wants NAME");
  EXPECT_EQ(refusal({"--deep=yes"}), "option '--deep' takes no value");
  EXPECT_EQ(refusal({"--help=yes"}), "option '--help' takes no value");
}

TEST(ArgumentsTest, NumbersAndSizesNameTheirOption) {
  const auto parsed = parse_words({"--count", "12", "--memory", "64M"});
  ASSERT_TRUE(parsed);
  EXPECT_EQ(parsed->number("--count", 1).value(), 12u);
  EXPECT_EQ(parsed->size("--memory", 1).value(), 64u << 20);
  EXPECT_EQ(parsed->number("-n", 7).value(), 7u);
  EXPECT_EQ(parsed->size("--name", 9).value(), 9u);
  EXPECT_EQ(parse_words({"--count", "x"})->number("--count", 1).error().context,
            "--count 'x': a number is expected");
}

constexpr const Command* kAll[] = {&kRun,
                                   &kCall,
                                   &kSnapshotCreate,
                                   &kSnapshotRestore,
                                   &kSnapshotLs,
                                   &kSnapshotInspect,
                                   &kSnapshotVerify,
                                   &kSnapshotCompat,
                                   &kSnapshotRm,
                                   &kBenchRestore,
                                   &kDoctor,
                                   &kVersion};

TEST(HelpTest, HasUsageExampleAndEveryOption) {
  for (const Command* command : kAll) {
    const std::string help = help_of(*command);
    EXPECT_TRUE(help.starts_with(std::string("usage: volt ") + command->path)) << help;
    EXPECT_NE(help.find(command->operands), std::string::npos) << help;
    EXPECT_NE(help.find(std::string("\nexample:\n  volt ") + command->path), std::string::npos)
        << help;
    for (const auto options : {command->options, common_options()}) {
      for (const Option& option : options) {
        EXPECT_NE(help.find(std::string("\n  ") + option.name + " "), std::string::npos)
            << command->path << " does not explain " << option.name;
        EXPECT_NE(std::string(option.help), "") << option.name;
      }
    }
  }
}

TEST(HelpTest, FitsATerminalOf100Columns) {
  for (const Command* command : kAll) {
    const std::string help = help_of(*command);
    for (std::size_t at = 0, end; at < help.size(); at = end + 1) {
      end = help.find('\n', at);
      ASSERT_NE(end, std::string::npos) << "the last line of " << command->path << " has no end";
      EXPECT_LE(end - at, 100u) << help.substr(at, end - at);
    }
  }
}

// What an example shows can be typed: its options are the command's own.
TEST(HelpTest, ExamplesParse) {
  for (const Command* command : kAll) {
    std::vector<std::string> words;
    std::string text = command->example;
    std::erase(text, '\'');
    text.erase(0, std::string("volt ").size() + std::string(command->path).size());
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = std::min(text.find(' ', at), text.size());
      if (end > at) words.push_back(text.substr(at, end - at));
      at = end + 1;
    }
    std::vector<char*> pointers;
    for (std::string& word : words) pointers.push_back(word.data());
    EXPECT_TRUE(parse(command->options, pointers)) << command->example;
  }
}

}  // namespace
}  // namespace volt::tools
