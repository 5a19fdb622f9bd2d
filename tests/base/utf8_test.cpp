#include "base/utf8.h"

#include <gtest/gtest.h>

#include "base/text.h"

namespace unigrpo {
namespace {

// What Python's bytes.decode("utf-8", "replace") gives, as U+FFFD = ?.
std::string shown(std::string_view text) {
  std::string valid = valid_utf8(text);
  EXPECT_TRUE(is_valid_utf8(valid));
  for (size_t at = 0; (at = valid.find("\xEF\xBF\xBD")) != std::string::npos;) valid.replace(at, 3, "?");
  return valid;
}

TEST(ValidUtf8, PutsOneReplacementForEachIllFormedSequence) {
  EXPECT_EQ(shown(""), "");
  EXPECT_EQ(shown("plain \xC3\xA9 \xF0\x9F\x98\x80"), "plain \xC3\xA9 \xF0\x9F\x98\x80");
  EXPECT_EQ(shown("\xe9"
                  "chec"),
            "?chec");
  EXPECT_EQ(shown("a\xE2\x82"), "a?");  // cut in the middle
  EXPECT_EQ(shown("\xF0\x9F\x98z"), "?z");
  EXPECT_EQ(shown("\xC0\xAF"), "??");            // overlong
  EXPECT_EQ(shown("\xED\xA0\x80"), "???");       // a surrogate
  EXPECT_EQ(shown("\xF5\x80\x80\x80"), "????");  // above U+10FFFF
  EXPECT_EQ(shown("\x80\xBF z"), "?? z");
}

TEST(ValidUtf8, ReplacesEachMaximalInvalidPart) {
  const std::string bad = "\xEF\xBF\xBD";
  EXPECT_EQ(valid_utf8("a\xC3\xA9"), "a\xC3\xA9");
  EXPECT_EQ(valid_utf8("\xF0\x9F\x99"), bad);
  EXPECT_EQ(valid_utf8("\xE5\x9B"
                       "a"),
            bad + "a");
  EXPECT_EQ(valid_utf8("\xff\x80"), bad + bad);
  EXPECT_EQ(valid_utf8("\xED\xA0\x80"), bad + bad + bad);
}

TEST(ValidUtf8, CutsAtTheEndOfACharacter) {
  EXPECT_EQ(valid_utf8("ab\xC3\xA9", 3), "ab");
  EXPECT_EQ(valid_utf8("ab\xC3\xA9", 4), "ab\xC3\xA9");
  EXPECT_EQ(valid_utf8("ab\xE9", 4), "ab");
  EXPECT_EQ(valid_utf8("abc", 0), "");
}

TEST(HidePassword, LeavesTheHostAndWhatStandsBeforeTheAddress) {
  EXPECT_EQ(hide_password("http://host/path"), "http://host/path");
  EXPECT_EQ(hide_password("http://user:secret@host/path"), "http://[hidden]@host/path");
  EXPECT_EQ(hide_password("http://user:se@c/r et@host"), "http://[hidden]@host");
  EXPECT_EQ(hide_password("--set rewards.0.http.url=user:secret@host"), "--set rewards.0.http.url=[hidden]@host");
  EXPECT_EQ(hide_password("rewards=[{url = 'https://u:p@h'}]"), "rewards=[{url = 'https://[hidden]@h'}]");
  EXPECT_EQ(hide_password("somebody@host"), "somebody@host");
}

}  // namespace
}  // namespace unigrpo
