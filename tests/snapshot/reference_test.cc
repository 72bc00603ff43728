// Names as people type them.
#include "snapshot/reference.h"

#include <gtest/gtest.h>

namespace volt::snapshot {
namespace {

const std::string kHex(64, 'a');
const std::string kWord63(63, 'w');

TEST(ReferenceTest, ANameWithoutATagMeansLatest) {
  const Reference reference = Reference::parse("demo").value();
  EXPECT_EQ(reference.name, "demo");
  EXPECT_EQ(reference.tag, "latest");
  EXPECT_FALSE(reference.digest);
  EXPECT_EQ(reference.text(), "demo:latest");
}

TEST(ReferenceTest, ADigestMayStandAloneOrBehindAName) {
  const Reference alone = Reference::parse("sha256:" + kHex).value();
  EXPECT_EQ(alone.name, "");
  EXPECT_EQ(formats::to_hex(alone.digest.value()), kHex);
  EXPECT_EQ(alone.text(), "sha256:" + kHex);

  const Reference both = Reference::parse("demo:v1@sha256:" + kHex).value();
  EXPECT_EQ(both.text(), "demo:v1");
  EXPECT_EQ(formats::to_hex(both.digest.value()), kHex);
}

TEST(ReferenceTest, WhatIsPrintedParsesToTheSame) {
  for (const std::string text : {"a:b", "Web.2_x-y:V1.0", "0:0", "latest:latest"}) {
    EXPECT_EQ(Reference::parse(text).value().text(), text);
  }
  EXPECT_TRUE(Reference::parse(kWord63 + ":" + kWord63));
}

// A name becomes part of a path, so nothing that means something in a path may pass.
TEST(ReferenceTest, WhatIsNoReferenceIsRefusedAndRepeatedInTheError) {
  const std::string bad[] = {"",
                             ":",
                             "demo:",
                             ":v1",
                             "a:b:c",
                             "..",
                             "../x",
                             "a/b",
                             "a:../b",
                             ".hidden",
                             "-x",
                             "_x",
                             "a b",
                             "a\n",
                             std::string("a\0b", 3),
                             "\xC3\xA4",
                             kWord63 + "w",
                             "a:" + kWord63 + "w",
                             "demo@" + kHex,
                             "demo@sha256:" + kHex + "a",
                             "demo@sha256:",
                             "@sha256:" + kHex,
                             "sha256:" + kHex.substr(1),
                             "sha256:" + std::string(64, 'A'),
                             "sha256:" + std::string(64, 'g'),
                             "demo@sha256:" + kHex + "@sha256:" + kHex};
  for (const std::string& text : bad) {
    const Result<Reference> parsed = Reference::parse(text);
    ASSERT_FALSE(parsed) << "accepted '" << text << "'";
    EXPECT_EQ(parsed.error().code, Code::kInvalid);
    EXPECT_NE(parsed.error().context.find("'" + text + "': "), std::string::npos)
        << parsed.error().context;
  }
}

}  // namespace
}  // namespace volt::snapshot
