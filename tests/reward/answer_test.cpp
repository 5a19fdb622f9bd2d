#include "reward/builtin/answer.h"

#include <gtest/gtest.h>

namespace unigrpo::reward {
namespace {

data::Sample sample(const std::string& text, const std::string& metadata, bool finished = true) {
  data::Sample made;
  made.metadata_json = metadata;
  data::SampleSegment segment;
  segment.text = text;
  segment.finished = finished;
  made.segments = {segment};
  return made;
}

Score score(const data::Sample& made) { return make_answer_reward()->score(std::span(&made, 1)).front(); }

TEST(Answer, IsWhatFollowsTheThought) {
  EXPECT_EQ(answer_of("two"), "two");
  EXPECT_EQ(answer_of("<think> two? no, three </think>\n Three. "), "three");
  EXPECT_EQ(answer_of("<think> </think>"), "");
  EXPECT_EQ(answer_of(""), "");
  EXPECT_EQ(answer_of("A <think> x </think> b <think> y </think> c"), "c");
}

TEST(Answer, IsRightOrWrong) {
  const std::string two = R"({"metadata": {"answer": "two"}})";
  EXPECT_EQ(score(sample("<think> I see them </think> two", two)).value, 1.0);
  EXPECT_EQ(score(sample("TWO.", two)).value, 1.0);
  const Score wrong = score(sample("three", two));
  EXPECT_EQ(wrong.value, 0.0);
  EXPECT_EQ(wrong.reason, "answered 'three', expected 'two'");
  EXPECT_EQ(score(sample("two", two, false)).value, 0.0);
  EXPECT_EQ(score(sample("2", R"({"metadata": {"answer": ["two", "2"]}})")).value, 1.0);
}

TEST(Answer, WithoutARightAnswerThereIsNoScore) {
  const auto reward = make_answer_reward();
  for (const char* row : {"{}", R"({"metadata": {}})", R"({"metadata": {"answer": 2}})",
                          R"({"metadata": {"answer": " "}})", R"({"metadata": {"answer": []}})", "[]"}) {
    EXPECT_NE(reward->missing_metadata(row), "") << row;
    EXPECT_FALSE(score(sample("two", row)).value) << row;
  }
  EXPECT_EQ(reward->missing_metadata(R"({"metadata": {"answer": "two"}})"), "");
  data::Sample silent = sample("x", R"({"metadata": {"answer": "two"}})");
  silent.segments.clear();
  EXPECT_FALSE(score(silent).value);
}

}  // namespace
}  // namespace unigrpo::reward
