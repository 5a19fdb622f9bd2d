#include "reward/builtin/text_rules.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace unigrpo::reward {
namespace {

Score score_of(const TextRulesConfig& term, const std::string& text, int64_t tokens = 10) {
  data::Sample sample;
  sample.segments.push_back({.kind = data::SegmentKind::text, .text = text, .num_tokens = tokens, .image = {}});
  sample.segments.push_back({.kind = data::SegmentKind::text, .text = "later", .image = {}});
  return make_text_rules_reward(term)->score(std::vector{sample})[0];
}

TextRulesConfig with_pattern(const std::string& pattern) {
  TextRulesConfig term;
  term.pattern = pattern;
  return term;
}

TEST(TextRulesReward, WantsThePatternSomewhereInTheFirstText) {
  const TextRulesConfig term = with_pattern(R"(<answer>\s*\d+\s*</answer>)");
  EXPECT_EQ(score_of(term, "so <answer> 42 </answer>").value, 1.0);
  const Score score = score_of(term, "so <answer> many </answer>");
  EXPECT_EQ(score.value, 0.0);
  EXPECT_EQ(score.reason, "the pattern is not in the text");
  EXPECT_EQ(score_of(with_pattern("later"), "first").value, 0.0);
  EXPECT_EQ(score_of(TextRulesConfig{}, "anything").value, 1.0);
}

TEST(TextRulesReward, KnowsLinesAndCharactersOfSeveralBytes) {
  EXPECT_EQ(score_of(with_pattern(R"(\A<think>.+</think>\z)"), "<think>one\ntwo</think>").value, 1.0);
  EXPECT_EQ(score_of(with_pattern(R"(\A.\z)"), "\xC3\xA9").value, 1.0);
  EXPECT_EQ(score_of(with_pattern("(?i)RED"), "a red star").value, 1.0);
  EXPECT_EQ(score_of(with_pattern("star"), "a \xFF star").value, 1.0);  // a byte that is no character
  EXPECT_EQ(score_of(with_pattern("a . star"), "a \xFF star").value, 0.0);
}

TEST(TextRulesReward, WantsAShortestLength) {
  TextRulesConfig term;
  term.min_tokens = 8;
  EXPECT_EQ(score_of(term, "", 8).value, 1.0);
  const Score score = score_of(term, "", 7);
  EXPECT_EQ(score.value, 0.0);
  EXPECT_EQ(score.reason, "7 tokens, expected at least 8");
}

// DAPO's equation 13 with max 100 and cache 20.
TEST(TextRulesReward, PunishesLengthSoftly) {
  TextRulesConfig term;
  term.max_tokens = 100;
  term.overlong_cache = 20;
  EXPECT_EQ(score_of(term, "", 1).parts.at("overlong"), 0);
  EXPECT_EQ(score_of(term, "", 80).parts.at("overlong"), 0);
  EXPECT_EQ(score_of(term, "", 85).parts.at("overlong"), -0.25);
  EXPECT_EQ(score_of(term, "", 100).parts.at("overlong"), -1);
  EXPECT_EQ(score_of(term, "", 101).parts.at("overlong"), -1);
  term.overlong_cache = 0;
  EXPECT_EQ(score_of(term, "", 100).parts.at("overlong"), 0);
  EXPECT_EQ(score_of(term, "", 101).parts.at("overlong"), -1);
}

TEST(TextRulesReward, AddsRulesAndPunishment) {
  TextRulesConfig term = with_pattern("star");
  term.max_tokens = 20;
  term.overlong_cache = 10;
  const Score kept = score_of(term, "a star", 15);
  EXPECT_EQ(kept.value, 0.5);
  EXPECT_EQ(kept.parts, (std::map<std::string, double>{{"rules", 1}, {"overlong", -0.5}}));
  EXPECT_EQ(score_of(term, "a circle", 25).value, -1.0);
}

TEST(TextRulesReward, NoTextBreaksTheRules) {
  const auto reward = make_text_rules_reward(TextRulesConfig{});
  const Score score = reward->score(std::vector{data::Sample{}})[0];
  EXPECT_EQ(score.value, 0.0);
  EXPECT_EQ(score.reason, "no text");
  EXPECT_EQ(reward->missing_metadata("{}"), "");
}

TEST(TextRulesReward, RefusesWhatIsNoPattern) {
  try {
    make_text_rules_reward(with_pattern("<answer>(\\d+"));
    FAIL();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(),
                 "rewards: pattern '<answer>(\\d+': expected a regular expression: missing closing parenthesis "
                 "(at byte 12)");
  }
}

TEST(TextRulesReward, APatternThatNeverEndsGivesNoScore) {
  const Score score = score_of(with_pattern("\\A(a+)+\\z"), std::string(40, 'a') + "b");
  EXPECT_FALSE(score.value);
  EXPECT_EQ(score.reason, "the pattern could not be searched: match limit exceeded");
}

}  // namespace
}  // namespace unigrpo::reward
