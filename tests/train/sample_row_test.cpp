#include "train/sample_row.h"

#include <gtest/gtest.h>

namespace unigrpo::train {
namespace {

TEST(SampleRow, HoldsAllThatTheTermsSaid) {
  data::Sample sample;
  sample.id = "3/1";
  const std::vector<std::string> terms = {"geneval", "judge", "ocr"};
  const std::vector<reward::Score> scores = {{.value = 0.75, .reason = "", .parts = {{"strict", 0.5}, {"soft", 1.0}}},
                                             {.value = 0.25,
                                              .reason = "blurred",
                                              .parts = {},
                                              .missing = {},
                                              .notes = {{"reply", "2 of 8"}, {"seen", "a dog"}}},
                                             {.value = {}, .reason = "no image", .parts = {}}};

  const monitor::SampleRow row = sample_row(sample, terms, scores);

  EXPECT_EQ(row.sample.id, "3/1");
  EXPECT_EQ(row.scores,
            (std::map<std::string, std::optional<double>>{
                {"geneval", 0.75}, {"geneval_strict", 0.5}, {"geneval_soft", 1.0}, {"judge", 0.25}, {"ocr", {}}}));
  EXPECT_EQ(row.reasons, (std::map<std::string, std::string>{{"judge", "blurred"}, {"ocr", "no image"}}));
  EXPECT_EQ(
      row.notes,
      (std::map<std::string, std::map<std::string, std::string>>{{"judge", {{"reply", "2 of 8"}, {"seen", "a dog"}}}}));
  EXPECT_FALSE(row.reward.has_value());
  EXPECT_TRUE(row.advantage.empty());
}

}  // namespace
}  // namespace unigrpo::train
