#include "data/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

namespace unigrpo::data {
namespace {

using Words = std::vector<std::string>;

Words cut(const std::vector<PreTokenizerStep>& steps, std::string_view text) {
  return PreTokenizer(steps, "test").words(text);
}

TEST(PreTokenizer, WhitespaceKeepsWordsAndPunctuationRuns) {
  EXPECT_EQ(cut({whitespace_step()}, "a_1 d'e...\xC3\xA9t\xCC\x81\t\xE2\x80\x83x"),
            (Words{"a_1", "d", "'", "e", "...", "\xC3\xA9t\xCC\x81", "x"}));
  EXPECT_EQ(cut({whitespace_split_step()}, " a.b \xC2\xA0 c "), (Words{"a.b", "c"}));
  EXPECT_EQ(cut({whitespace_step()}, ""), Words{});
}

TEST(PreTokenizer, ByteLevelFollowsGpt2) {
  EXPECT_EQ(cut({byte_level_step(false, true)}, "it's  12 a\n"), (Words{"it", "'s", "\xC4\xA0",
                                                                        "\xC4\xA0"
                                                                        "12",
                                                                        "\xC4\xA0"
                                                                        "a",
                                                                        "\xC4\x8A"}));
  EXPECT_EQ(cut({byte_level_step(true, true)}, "a b"), (Words{"\xC4\xA0"
                                                              "a",
                                                              "\xC4\xA0"
                                                              "b"}));
}

TEST(PreTokenizer, Qwen2sPatternSplitsDigitsAndKeepsLineEnds) {
  EXPECT_EQ(cut({{.pattern = std::string(kQwen2Pattern)}}, "It'LL 12 (ok)\n\n  x"),
            (Words{"It", "'LL", " ", "1", "2", " (", "ok", ")\n\n", " ", " x"}));
  // U+180E left White_Space in Unicode 6.3.
  EXPECT_EQ(cut({{.pattern = "\\s+"}},
                "a\xE1\xA0\x8E"
                "b"),
            (Words{"a\xE1\xA0\x8E"
                   "b"}));
}

TEST(PreTokenizer, PassesOverEmptyMatches) {
  EXPECT_EQ(cut({{.pattern = "x*"}}, "a\xC3\xA9xxb"), (Words{"a\xC3\xA9", "xx", "b"}));
  EXPECT_EQ(cut({{.pattern = "(?=b)"}}, "abb"), (Words{"abb"}));
}

TEST(ByteAlphabet, GoesThereAndBack) {
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(byte);
  const ByteAlphabet& alphabet = ByteAlphabet::get();
  EXPECT_EQ(alphabet.to_bytes(alphabet.to_characters(all)), all);
  EXPECT_EQ(alphabet.to_characters(" \n!"), "\xC4\xA0\xC4\x8A!");
  EXPECT_EQ(alphabet.to_bytes("\xE5\x9B\xBE"), "\xE5\x9B\xBE");
}

TEST(ToNfc, Composes) {
  EXPECT_EQ(to_nfc("e\xCC\x81"), "\xC3\xA9");
  EXPECT_EQ(to_nfc("plain"), "plain");
  EXPECT_EQ(to_nfc("\xEF\xBC\xA1"), "\xEF\xBC\xA1");  // compatibility characters stay
}

}  // namespace
}  // namespace unigrpo::data
