#include "train/draw.h"

#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <mutex>
#include <set>

#include "base/failure.h"
#include "runtime/ranks.h"
#include "support/rank_threads.h"
#include "support/tiny_rollout.h"

namespace unigrpo::train {
namespace {

/// Scores a sample by its index, and notes which groups came together. `fails`: the sample without a score.
struct Counting : reward::Reward {
  Counting(bool wants, std::string fails) : wants_groups_(wants), fails_(std::move(fails)) {}
  std::vector<reward::Score> score(std::span<const data::Sample> samples) override {
    std::map<int64_t, int64_t> groups;
    std::vector<reward::Score> scores;
    for (const data::Sample& sample : samples) {
      ++groups[sample.group];
      scores.push_back({.value = std::stod(sample.id.substr(sample.id.find('/') + 1)), .reason = {}, .parts = {}});
      if (sample.last_image()->pixels.empty()) scores.back() = {.value = {}, .reason = "no pixels", .parts = {}};
      if (sample.id == fails_) scores.back() = {.value = {}, .reason = "no", .parts = {}};
    }
    const std::lock_guard lock(mutex);
    for (const auto& [group, count] : groups) sizes.insert(count);
    return scores;
  }
  bool wants_groups() const override { return wants_groups_; }

  const bool wants_groups_;
  const std::string fails_;
  static inline std::mutex mutex;
  static inline std::multiset<int64_t> sizes;  // of the groups of a call, on all ranks
};

class Draw : public ::testing::Test {
 protected:
  void SetUp() override { Counting::sizes.clear(); }

  /// A step of two prompts and groups of three.
  std::optional<Batch> run(const Runtime& runtime) const {
    const auto model = testing::tiny_bagel();
    testing::make_texts_end(*model);
    reward::RewardConfig config;
    config.terms.resize(1);
    config.on_error = on_error;
    reward::Rewarder rewarder(
        config, [&](const reward::TermConfig&) { return std::make_unique<Counting>(wants_groups, fails); },
        runtime.stop);
    Runtime own = runtime;
    own.seed = 3;
    rollout::RolloutEngine engine(*model, testing::tiny_rollout(), own, "");
    return draw(engine, rewarder, own,
                {.rollout = testing::request(two, 3), .judge_at_once = judge_at_once, .reward_ranks = reward_ranks});
  }
  void expect_whole_step(const Batch& batch) const {
    ASSERT_EQ(batch.trajectories.size(), 6U);
    for (size_t i = 0; i < 6; ++i) {
      EXPECT_EQ(batch.trajectories[i].prompt_index, static_cast<int64_t>(i / 3));
      EXPECT_EQ(batch.trajectories[i].sample_index, static_cast<int64_t>(i % 3));
      EXPECT_EQ(batch.scores.scores[i].at(0).value, static_cast<double>(i % 3));
    }
    EXPECT_EQ(batch.scores.terms.size(), 1U);
  }

  /// Of three ranks one is asked to stop.
  void expect_stopped_by(size_t rank) const {
    std::vector<std::atomic<int>> signals(3);
    signals[rank] = SIGTERM;
    EXPECT_EQ(test::run_runtimes(3,
                                 [&](const Runtime& runtime) {
                                   Runtime own = runtime;
                                   own.stop = StopToken(signals[static_cast<size_t>(runtime.mesh.rank)]);
                                   EXPECT_FALSE(run(own));
                                   EXPECT_EQ(own.stop.signal(), "SIGTERM");
                                 }),
              std::vector<std::string>(3));
  }

  const std::vector<data::Prompt> two = testing::prompts({"a red circle", "two squares"});
  bool wants_groups = false, judge_at_once = true;
  int64_t reward_ranks = 0;
  std::string fails;
  reward::OnError on_error = reward::OnError::drop_sample;
};

TEST_F(Draw, EveryRankHasTheWholeStepAndHoldsItsShare) {
  for (const int64_t ranks : {1, 2, 3, 5, 8}) {
    std::atomic<int64_t> held{0};
    EXPECT_EQ(test::run_runtimes(ranks,
                                 [&](const Runtime& runtime) {
                                   const auto batch = run(runtime);
                                   ASSERT_TRUE(batch);
                                   expect_whole_step(*batch);
                                   held +=
                                       std::ranges::count(batch->trajectories, false, &rollout::Trajectory::is_outline);
                                   const std::vector<size_t> rows = {5, 0};
                                   const auto samples = whole_samples(runtime, batch->trajectories, rows);
                                   ASSERT_EQ(samples.size(), is_root(runtime) ? 2U : 0U);
                                   if (!is_root(runtime)) return;
                                   EXPECT_EQ(samples[0].id, "1/2");
                                   EXPECT_FALSE(samples[1].last_image()->pixels.empty());
                                 }),
              std::vector<std::string>(static_cast<size_t>(ranks)));
    EXPECT_EQ(held, 6);
  }
}

TEST_F(Draw, ARewardThatComparesSeesWholeGroupsHoweverTheyAreCut) {
  wants_groups = true;
  for (const bool at_once : {true, false}) {
    judge_at_once = at_once;
    for (const int64_t ranks : {1, 2, 3, 8}) {
      Counting::sizes.clear();
      EXPECT_EQ(test::run_runtimes(ranks, [&](const Runtime& runtime) { expect_whole_step(run(runtime).value()); }),
                std::vector<std::string>(static_cast<size_t>(ranks)));
      EXPECT_EQ(Counting::sizes, (std::multiset<int64_t>{3, 3})) << ranks;
    }
  }
}

TEST_F(Draw, TheLastRanksJudgeWhatTheOthersDraw) {
  for (const auto& [ranks, judges] : {std::pair{2, 1}, {3, 2}, {4, 1}, {6, 1}, {5, 3}}) {
    reward_ranks = judges;
    for (const bool whole : {false, true}) {
      wants_groups = whole;
      Counting::sizes.clear();
      EXPECT_EQ(test::run_runtimes(ranks,
                                   [&, drawing = ranks - judges](const Runtime& runtime) {
                                     const auto batch = run(runtime);
                                     ASSERT_TRUE(batch);
                                     expect_whole_step(*batch);
                                     const auto own = std::ranges::count(batch->trajectories, false,
                                                                         &rollout::Trajectory::is_outline);
                                     if (runtime.mesh.rank >= drawing) {
                                       EXPECT_EQ(own, 0);
                                     } else if (drawing <= 2) {
                                       EXPECT_EQ(own, 6 / drawing);
                                     }
                                   }),
                std::vector<std::string>(static_cast<size_t>(ranks)));
      if (whole) {
        EXPECT_EQ(Counting::sizes, (std::multiset<int64_t>{3, 3})) << ranks;
      }
    }
  }
}

TEST_F(Draw, AMissingScoreEndsAllWithTheRankNamedAndAllThatWasJudged) {
  on_error = reward::OnError::stop;
  fails = "1/1";  // of rank 1
  EXPECT_EQ(test::run_runtimes(2,
                               [&](const Runtime& runtime) {
                                 const auto batch = run(runtime);
                                 ASSERT_TRUE(batch && batch->missing);
                                 EXPECT_EQ(batch->scores.scores[4][0].reason, "no");
                                 EXPECT_EQ(batch->scores.scores[5][0].value, 2);
                                 if (runtime.mesh.rank == 1) {
                                   EXPECT_THROW(std::rethrow_exception(batch->missing), reward::MissingScores);
                                   return;
                                 }
                                 try {
                                   std::rethrow_exception(batch->missing);
                                 } catch (const PeerLost& lost) {
                                   EXPECT_NE(std::string(lost.what()).find("rank 1: reward"), std::string::npos);
                                   EXPECT_NE(std::string(lost.what()).find("sample 1/1"), std::string::npos);
                                 }
                               }),
            std::vector<std::string>(2));
}

TEST_F(Draw, AStopOfOneRankDropsTheStepOnAll) { expect_stopped_by(2); }

TEST_F(Draw, AStopOfADrawingRankDoesNotLeaveItsJudgeWaiting) {
  reward_ranks = 1;
  expect_stopped_by(0);
}

}  // namespace
}  // namespace unigrpo::train
