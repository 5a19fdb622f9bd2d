#include "reward/rewarder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace unigrpo::reward {
namespace {

/// Gives each sample its seed as score; a sample without score recovers at the second call where
/// `mends`.
class SeedReward : public Reward {
 public:
  SeedReward(std::vector<int64_t> fails, bool mends) : fails_(std::move(fails)), mends_(mends) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores;
    for (const data::Sample& sample : samples) {
      const bool failed =
          std::count(fails_.begin(), fails_.end(), sample.seed) > 0 && !(mends_ && calls_ > 0);
      if (failed) {
        scores.push_back({.value = std::nullopt, .reason = "away", .parts = {}});
      } else {
        scores.push_back({.value = static_cast<double>(sample.seed), .reason = "", .parts = {}});
      }
    }
    ++calls_;
    return scores;
  }
  std::string missing_metadata(const std::string& metadata_json) const override {
    return metadata_json == "{}" ? "'include' is missing" : "";
  }

 private:
  std::vector<int64_t> fails_;
  bool mends_;
  int calls_ = 0;
};

class NanReward : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return std::vector<Score>(samples.size(), {.value = std::nan(""), .reason = "", .parts = {}});
  }
  std::string missing_metadata(const std::string&) const override { return ""; }
};

std::vector<data::Sample> samples_of(int64_t count) {
  std::vector<data::Sample> samples(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    samples[static_cast<size_t>(i)].seed = i;
    samples[static_cast<size_t>(i)].id = std::to_string(i) + "/0";
  }
  return samples;
}

Rewarder rewarder_of(OnError on_error, std::unique_ptr<Reward> reward) {
  RewardConfig config = {.on_error = on_error, .terms = {{.name = "seed", .weight = 0.5}}};
  std::vector<std::unique_ptr<Reward>> rewards;
  rewards.push_back(std::move(reward));
  return Rewarder(config, std::move(rewards));
}

TEST(Rewarder, BuildsTheTermsOfARecipe) {
  RewardConfig config;
  config.terms = {{.name = "", .kind = RewardKind::geneval, .weight = 1.0},
                  {.name = "ink", .kind = RewardKind::saturation, .weight = 0.3}};
  Rewarder rewarder(config);
  const ScoreTable table = rewarder.score(samples_of(2));
  EXPECT_EQ(table.terms, (std::vector<std::string>{"geneval", "ink"}));
  EXPECT_EQ(table.weights, (std::vector<double>{1.0, 0.3}));
  ASSERT_EQ(table.scores.size(), 2u);
  ASSERT_EQ(table.scores[0].size(), 2u);
  EXPECT_EQ(table.scores[0][0].reason, "no image");
}

TEST(Rewarder, RefusesTwoTermsOfOneName) {
  RewardConfig config;
  config.terms = {{.name = "", .kind = RewardKind::geneval},
                  {.name = "geneval", .kind = RewardKind::format}};
  EXPECT_THROW(Rewarder{config}, BadInput);
}

TEST(Rewarder, LeavesFailedSamplesEmptyUnderDrop) {
  Rewarder rewarder = rewarder_of(OnError::drop_sample,
                                  std::make_unique<SeedReward>(std::vector<int64_t>{1}, true));
  const ScoreTable table = rewarder.score(samples_of(3));
  EXPECT_EQ(table.scores[0][0].value, 0.0);
  EXPECT_FALSE(table.scores[1][0].value);
  EXPECT_EQ(table.scores[1][0].reason, "away");
  EXPECT_EQ(table.scores[2][0].value, 2.0);
}

TEST(Rewarder, RetriesFailedSamplesOnce) {
  Rewarder mends =
      rewarder_of(OnError::retry, std::make_unique<SeedReward>(std::vector<int64_t>{1, 2}, true));
  const ScoreTable table = mends.score(samples_of(4));
  for (size_t n = 0; n < 4; ++n) EXPECT_EQ(table.scores[n][0].value, static_cast<double>(n));
  Rewarder stays =
      rewarder_of(OnError::retry, std::make_unique<SeedReward>(std::vector<int64_t>{1}, false));
  EXPECT_FALSE(stays.score(samples_of(2)).scores[1][0].value);
}

TEST(Rewarder, StopsWhereToldTo) {
  Rewarder rewarder =
      rewarder_of(OnError::stop, std::make_unique<SeedReward>(std::vector<int64_t>{1}, true));
  try {
    rewarder.score(samples_of(2));
    ADD_FAILURE();
  } catch (const RuntimeFailure& error) {
    EXPECT_STREQ(error.what(),
                 "reward 'seed' has no score for sample 1/0: away (reward.on_error = stop)");
  }
}

TEST(Rewarder, TurnsNanIntoNoScore) {
  Rewarder rewarder = rewarder_of(OnError::drop_group, std::make_unique<NanReward>());
  const Score score = rewarder.score(samples_of(1)).scores[0][0];
  EXPECT_FALSE(score.value);
  EXPECT_EQ(score.reason, "the score is nan");
}

TEST(Rewarder, NamesTheLineOfAPromptItCannotJudge) {
  RewardConfig config;
  config.terms = {{.name = "", .kind = RewardKind::format},
                  {.name = "", .kind = RewardKind::geneval}};
  const Rewarder rewarder(config);
  std::vector<data::Prompt> prompts(2);
  prompts[0].metadata_json = R"({"include": [{"class": "circle", "count": 1}]})";
  prompts[0].line = 1;
  prompts[1].line = 3;
  EXPECT_NO_THROW(rewarder.check_prompts(std::span(prompts).first(1), "p.jsonl"));
  try {
    rewarder.check_prompts(prompts, "p.jsonl");
    ADD_FAILURE();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(),
                 "p.jsonl:3: reward 'geneval' cannot judge this row: 'include' is missing");
  }
}

}  // namespace
}  // namespace unigrpo::reward
