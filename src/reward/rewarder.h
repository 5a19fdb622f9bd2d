#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/signals.h"
#include "data/prompt.h"
#include "reward/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Builds a reward of this folder from its recipe term. Throws BadInput for one that is a network (scorers/scorer.h).
std::unique_ptr<Reward> make_reward(const TermConfig& term, StopToken stop = {});

/// Under reward.on_error = stop a sample has no score. `table` holds all that was judged, for whoever writes down what
/// failed.
struct MissingScores : RuntimeFailure {
  MissingScores(const std::string& message, ScoreTable judged)
      : RuntimeFailure("{}", message), table(std::move(judged)) {}
  ScoreTable table;
};

/// Runs the terms of a recipe over samples. Terms that differ only in what is made of the score (name, weight,
/// dimension, ...) share one reward, which judges each sample once. Every reward has a thread of its own, so that slow
/// ones judge the first groups of a step while the policy still draws the others.
///
/// A sample has failed where a term has no number of the dimension that it uses. Applies `on_error` = stop / retry here
/// (retry: once more for the failed samples); dropping is the business of whoever turns scores into advantages. A NaN
/// or infinite number becomes an empty one with a reason. What a plugin does not score is in the log.
class Rewarder {
 public:
  using Make = std::function<std::unique_ptr<Reward>(const TermConfig&)>;

  /// Asked to stop, it waits for nobody, and a sample without a score is no failure. Throws BadInput where two
  /// terms have one name, and whatever `make` throws.
  Rewarder(const RewardConfig& config, const Make& make, StopToken stop = {});
  /// Of rewards that need no network.
  explicit Rewarder(const RewardConfig& config)
      : Rewarder(config, [](const TermConfig& term) { return make_reward(term); }) {}
  Rewarder(Rewarder&&) noexcept;
  /// Waits for the calls under way, and what they say is lost; once a stop is asked for, for half a second, after which
  /// they are left behind (base/left_behind.h).
  ~Rewarder();

  /// Begins to judge. `first`: the row of samples[0] in the table. A reward that wants whole groups finds them in one
  /// call only where they are submitted in one.
  void submit(size_t first, std::vector<data::Sample> samples);
  /// Waits for all that was submitted since the last call, which ends the step for the rewards (Reward::new_step). Rows
  /// that nobody submitted, or judged before a stop, are empty, with a reason. Throws what a reward threw, and
  /// MissingScores under on_error = stop.
  ScoreTable collect();

  /// submit and collect.
  ScoreTable score(std::span<const data::Sample> samples);

  /// The named dimensions of a term's reward, as Reward::dimensions().
  std::vector<std::string> dimensions(size_t term) const;

  /// Whether any reward compares the samples of a group, and must see them together.
  bool wants_groups() const;

  /// Throws BadInput `file:line: ...` for the first prompt that a term cannot judge.
  void check_prompts(std::span<const data::Prompt> prompts, const std::string& file) const;

 private:
  class Judge;

  RewardConfig config_;
  StopToken stop_;
  std::vector<std::unique_ptr<Judge>> judges_;
  std::vector<size_t> judge_of_;  // [K], by term
  std::vector<std::string> ids_;  // of the samples submitted since the last table, by row
};

/// What a term makes of its reward's score: the dimension that it names, or the main number.
Score term_score(const TermConfig& term, const Score& score);

}  // namespace unigrpo::reward
