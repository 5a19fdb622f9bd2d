#include "reward/rewarder.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <csignal>
#include <thread>

#include "base/error.h"
#include "base/left_behind.h"

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
      const bool failed = std::count(fails_.begin(), fails_.end(), sample.seed) > 0 && !(mends_ && calls_ > 0);
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
};

std::vector<data::Sample> samples_of(int64_t count) {
  std::vector<data::Sample> samples(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) {
    samples[static_cast<size_t>(i)].seed = i;
    samples[static_cast<size_t>(i)].id = std::to_string(i) + "/0";
  }
  return samples;
}

/// A rewarder of one term with a reward of the test's own behind it.
Rewarder rewarder_of(OnError on_error, std::unique_ptr<Reward> reward) {
  RewardConfig config = {.on_error = on_error, .terms = {{.name = "seed", .weight = 0.5}}};
  return Rewarder(config, [&](const TermConfig&) { return std::move(reward); });
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
  config.terms = {{.name = "", .kind = RewardKind::geneval}, {.name = "geneval", .kind = RewardKind::format}};
  EXPECT_THROW(Rewarder{config}, BadInput);
}

TEST(Rewarder, LeavesFailedSamplesEmptyUnderDrop) {
  Rewarder rewarder = rewarder_of(OnError::drop_sample, std::make_unique<SeedReward>(std::vector<int64_t>{1}, true));
  const ScoreTable table = rewarder.score(samples_of(3));
  EXPECT_EQ(table.scores[0][0].value, 0.0);
  EXPECT_FALSE(table.scores[1][0].value);
  EXPECT_EQ(table.scores[1][0].reason, "away");
  EXPECT_EQ(table.scores[2][0].value, 2.0);
}

TEST(Rewarder, RetriesFailedSamplesOnce) {
  Rewarder mends = rewarder_of(OnError::retry, std::make_unique<SeedReward>(std::vector<int64_t>{1, 2}, true));
  const ScoreTable table = mends.score(samples_of(4));
  for (size_t n = 0; n < 4; ++n) EXPECT_EQ(table.scores[n][0].value, static_cast<double>(n));
  Rewarder stays = rewarder_of(OnError::retry, std::make_unique<SeedReward>(std::vector<int64_t>{1}, false));
  EXPECT_FALSE(stays.score(samples_of(2)).scores[1][0].value);
}

TEST(Rewarder, StopsWhereToldTo) {
  Rewarder rewarder = rewarder_of(OnError::stop, std::make_unique<SeedReward>(std::vector<int64_t>{1}, true));
  try {
    rewarder.score(samples_of(2));
    ADD_FAILURE();
  } catch (const RuntimeFailure& error) {
    EXPECT_STREQ(error.what(), "reward 'seed' has no score for sample 1/0: away (reward.on_error = stop)");
  }
}

TEST(Rewarder, HandsOutWhatWasJudgedWhereItStops) {
  Rewarder rewarder = rewarder_of(OnError::stop, std::make_unique<SeedReward>(std::vector<int64_t>{1}, true));
  try {
    rewarder.score(samples_of(3));
    ADD_FAILURE();
  } catch (const MissingScores& missing) {
    ASSERT_EQ(missing.table.scores.size(), 3u);
    EXPECT_EQ(missing.table.scores[1][0].reason, "away");
    EXPECT_EQ(missing.table.scores[2][0].value, 2.0);
  }
}

/// Has "first" for everybody; "second" at the second call, from which "first" is missing.
class SecondTryReward : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    asked.push_back(samples.size());
    const bool again = asked.size() > 1;
    std::vector<Score> scores;
    for (const data::Sample& sample : samples) {
      if (again) {
        scores.push_back(
            {.value = std::nullopt, .reason = "gone", .parts = {{"second", 2}}, .missing = {{"first", "gone"}}});
      } else if (sample.seed == 1) {
        scores.push_back({.value = 1, .reason = "", .parts = {{"first", 1}}, .missing = {{"second", "later"}}});
      } else {
        scores.push_back({.value = 1, .reason = "", .parts = {{"first", 1}, {"second", 2}}});
      }
    }
    return scores;
  }
  std::string missing_metadata(const std::string&) const override { return ""; }
  std::vector<size_t> asked;
};

TEST(Rewarder, TriesAgainForTheDimensionsThatTermsUse) {
  for (const bool used : {true, false}) {
    auto owned = std::make_unique<SecondTryReward>();
    const SecondTryReward& reward = *owned;
    RewardConfig config = {.on_error = OnError::retry, .terms = {{.name = "main"}}};
    if (used) config.terms.push_back({.name = "second", .dimension = "second"});
    Rewarder rewarder(config, [&](const TermConfig&) { return std::move(owned); });
    const ScoreTable table = rewarder.score(samples_of(3));
    EXPECT_EQ(reward.asked, used ? (std::vector<size_t>{3, 1}) : std::vector<size_t>{3});
    for (size_t n = 0; n < 3; ++n) {
      EXPECT_EQ(table.scores[n][0].value, 1) << "what the first try gave stays";
      if (used) {
        EXPECT_EQ(table.scores[n][1].value, 2) << table.scores[n][1].reason;
      }
    }
  }
}

/// Counts its steps.
class SteppedReward : public SeedReward {
 public:
  explicit SteppedReward(int& steps) : SeedReward({}, false), steps_(steps) {}
  void new_step() override { ++steps_; }

 private:
  int& steps_;
};

TEST(Rewarder, EndsAStepWhenItIsCollected) {
  int steps = 0;
  Rewarder rewarder = rewarder_of(OnError::drop_sample, std::make_unique<SteppedReward>(steps));
  rewarder.submit(0, samples_of(2));
  rewarder.submit(2, samples_of(2));
  EXPECT_EQ(steps, 0);
  rewarder.collect();
  EXPECT_EQ(steps, 1);
  rewarder.score(samples_of(1));
  EXPECT_EQ(steps, 2);
}

/// Comes back when it is let go.
class StuckReward : public SeedReward {
 public:
  explicit StuckReward(std::shared_ptr<std::atomic<bool>> free) : SeedReward({}, false), free_(std::move(free)) {}
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    while (!*free_) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    return SeedReward::score(samples);
  }

 private:
  std::shared_ptr<std::atomic<bool>> free_;
};

TEST(Rewarder, WaitsForNobodyOnceAStopIsAskedFor) {
  const auto free = std::make_shared<std::atomic<bool>>(false);
  std::atomic<int> signal{0};
  const auto start = std::chrono::steady_clock::now();
  {
    const RewardConfig config = {.on_error = OnError::stop, .terms = {{.name = "stuck"}}};
    Rewarder rewarder(
        config, [&](const TermConfig&) { return std::make_unique<StuckReward>(free); }, StopToken(signal));
    rewarder.submit(0, samples_of(2));
    signal = SIGTERM;
    EXPECT_EQ(rewarder.collect().scores[1][0].reason, "not judged: SIGTERM");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  EXPECT_TRUE(any_left_behind());
  *free = true;
}

TEST(Rewarder, TurnsNanIntoNoScore) {
  Rewarder rewarder = rewarder_of(OnError::drop_group, std::make_unique<NanReward>());
  const Score score = rewarder.score(samples_of(1)).scores[0][0];
  EXPECT_FALSE(score.value);
  EXPECT_EQ(score.reason, "the score is nan");
}

/// Two named numbers, one of which some samples lack; says which threads and how many samples it saw.
class TwoNumbers : public Reward {
 public:
  explicit TwoNumbers(std::atomic<int>& seen) : seen_(seen) {}
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores;
    for (const data::Sample& sample : samples) {
      ++seen_;
      const auto seed = static_cast<double>(sample.seed);
      Score& score = scores.emplace_back(Score{.value = seed, .reason = "", .parts = {{"twice", 2 * seed}}});
      if (sample.seed == 2) {
        score.missing["twice"] = "two cannot be doubled";
        score.parts.clear();
      }
    }
    return scores;
  }

 private:
  std::atomic<int>& seen_;
};

TEST(Rewarder, ADimensionThatItsRewardHasNotIsRefusedAtTheStart) {
  RewardConfig config;
  config.terms = {{.name = "shapes", .dimension = "soft"},
                  {.name = "plan", .kind = RewardKind::text_rules, .dimension = "overlng"}};
  try {
    Rewarder rewarder(config);
    ADD_FAILURE();
  } catch (const BadInput& error) {
    EXPECT_STREQ(error.what(),
                 "rewards: the reward of 'plan' has no dimension 'overlng'; expected one of rules, overlong");
  }
}

TEST(Rewarder, TermsOfOneRewardShareItAndNameTheirDimension) {
  RewardConfig config;
  config.terms = {
      {.name = "once"}, {.name = "twice", .weight = 2, .dimension = "twice"}, {.name = "none", .dimension = "no"}};
  std::atomic<int> seen = 0;
  int made = 0;
  Rewarder rewarder(config, [&](const TermConfig&) {
    ++made;
    return std::make_unique<TwoNumbers>(seen);
  });
  const ScoreTable table = rewarder.score(samples_of(4));
  EXPECT_EQ(made, 1);
  EXPECT_EQ(seen, 4);
  EXPECT_EQ(table.scores[3][0].value, 3.0);
  EXPECT_EQ(table.scores[3][1].value, 6.0);
  EXPECT_FALSE(table.scores[2][1].value);
  EXPECT_EQ(table.scores[2][1].reason, "two cannot be doubled");
  EXPECT_EQ(table.scores[3][2].reason, "no dimension 'no', the reward gives: twice");
}

TEST(Rewarder, TermsThatDifferInWhatTheyAskHaveTheirOwn) {
  RewardConfig config;
  config.terms = {{.name = "a", .objects = {.metric = GenevalMetric::strict}},
                  {.name = "b", .objects = {.metric = GenevalMetric::soft}}};
  std::atomic<int> seen = 0;
  int made = 0;
  const Rewarder rewarder(config, [&](const TermConfig&) {
    ++made;
    return std::make_unique<TwoNumbers>(seen);
  });
  EXPECT_EQ(made, 2);
}

TEST(Rewarder, JudgesGroupsAsTheyComeAndTellsThemInOrder) {
  std::atomic<int> seen = 0;
  Rewarder rewarder = rewarder_of(OnError::drop_sample, std::make_unique<TwoNumbers>(seen));
  const auto samples = samples_of(6);
  rewarder.submit(4, {samples.begin() + 4, samples.end()});
  while (seen < 2) std::this_thread::yield();  // judged before the others are there
  rewarder.submit(0, {samples.begin(), samples.begin() + 2});
  const ScoreTable table = rewarder.collect();
  ASSERT_EQ(table.scores.size(), 6u);
  for (const size_t n : {0, 1, 4, 5}) EXPECT_EQ(table.scores[n][0].value, static_cast<double>(n));
  EXPECT_EQ(table.scores[2][0].reason, "not judged");
  EXPECT_EQ(rewarder.score(samples_of(1)).scores.size(), 1u);  // nothing of the last step is left
}

/// Fails its first call by throwing.
class Throws : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    if (calls_++ == 0) throw RuntimeFailure("the judge is ill");
    return std::vector<Score>(samples.size(), {.value = 1.0, .reason = "", .parts = {}});
  }

 private:
  int calls_ = 0;
};

TEST(Rewarder, WhatARewardThrowsReachesTheCaller) {
  Rewarder rewarder = rewarder_of(OnError::drop_sample, std::make_unique<Throws>());
  EXPECT_THROW(rewarder.score(samples_of(2)), RuntimeFailure);
  EXPECT_EQ(rewarder.score(samples_of(2)).scores[1][0].value, 1.0);
}

TEST(Rewarder, NamesTheLineOfAPromptItCannotJudge) {
  RewardConfig config;
  config.terms = {{.name = "", .kind = RewardKind::format}, {.name = "", .kind = RewardKind::geneval}};
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
    EXPECT_STREQ(error.what(), "p.jsonl:3: reward 'geneval' cannot judge this row: 'include' is missing");
  }
}

}  // namespace
}  // namespace unigrpo::reward
