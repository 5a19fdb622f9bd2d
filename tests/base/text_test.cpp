#include "base/text.h"

#include <gtest/gtest.h>

#include "base/sha256.h"

namespace unigrpo {
namespace {

TEST(Text, EditDistance) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3U);
  EXPECT_EQ(edit_distance("", "abc"), 3U);
  EXPECT_EQ(edit_distance("same", "same"), 0U);
}

TEST(Text, NearestGuessesOnlyWhatIsClose) {
  const std::vector<std::string> keys = {"group_size", "num_steps", "seed"};
  EXPECT_EQ(nearest("grop_size", keys), "group_size");
  EXPECT_EQ(nearest("sed", keys), "seed");
  EXPECT_EQ(nearest("temperature", keys), "");
}

TEST(Text, Join) {
  EXPECT_EQ(join({}, ", "), "");
  EXPECT_EQ(join(std::vector<std::string>{"a", "b"}, ", "), "a, b");
}

TEST(Text, SizesAndTimesForPeople) {
  EXPECT_EQ(human_bytes(0), "0 B");
  EXPECT_EQ(human_bytes(1023), "1023 B");
  EXPECT_EQ(human_bytes(1536), "1.5 KiB");
  EXPECT_EQ(human_bytes((uint64_t{1} << 30) - 1), "1.0 GiB");
  EXPECT_EQ(human_bytes(UINT64_MAX), "16.0 EiB");
  EXPECT_EQ(human_seconds(4.2), "4.2 s");
  EXPECT_EQ(human_seconds(59.97), "1 min 00 s");
  EXPECT_EQ(human_seconds(185), "3 min 05 s");
  EXPECT_EQ(human_seconds(3599.7), "1 h 00 min");
  EXPECT_EQ(human_seconds(3720), "1 h 02 min");
}

TEST(Text, Patterns) {
  EXPECT_TRUE(matches_pattern("layers.3.mlp.weight", "layers.*.weight"));
  EXPECT_TRUE(matches_pattern("abc", "a?c"));
  EXPECT_TRUE(matches_pattern("", "*"));
  EXPECT_TRUE(matches_pattern("aXbXc", "a*X*c"));
  EXPECT_FALSE(matches_pattern("abc", "ab"));
  EXPECT_FALSE(matches_pattern("", "?"));
  // Quadratic at worst, never exponential.
  EXPECT_FALSE(matches_pattern(std::string(2000, 'a'), "*a*a*a*a*a*a*a*a*b"));
}

TEST(Text, Utf8IsStrict) {
  EXPECT_TRUE(is_valid_utf8("plain \xc3\xa9 \xe6\xb0\xb4 \xf0\x9f\x8e\xa8 \xf4\x8f\xbf\xbf"));
  for (const char* bad : {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xe6\xb0",
                          "\xf0\x80\x80\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xff"}) {
    EXPECT_FALSE(is_valid_utf8(bad));
  }
  EXPECT_EQ(valid_utf8_prefix("ab\xff"), 2U);
}

TEST(Text, QuotedTextStaysOnOneLine) {
  EXPECT_EQ(in_quotes("w\xc3\xa9"), "'w\xc3\xa9'");
  EXPECT_EQ(in_quotes("a\nb\x1b\xff"), "'a\\x0ab\\x1b\\xff'");
  EXPECT_EQ(in_quotes("abcdef", 3), "'abc...'");
}

TEST(Sha256, MatchesTheStandardsExamples) {
  EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sha256_hex(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Sha256, PiecesGiveTheSameDigest) {
  const std::string text(300, 'x');
  for (size_t piece : {1U, 7U, 63U, 64U, 65U, 128U}) {
    Sha256 digest;
    for (size_t at = 0; at < text.size(); at += piece) {
      digest.update(std::string_view(text).substr(at, piece));
    }
    EXPECT_EQ(digest.hex(), sha256_hex(text)) << piece;
  }
}

}  // namespace
}  // namespace unigrpo
