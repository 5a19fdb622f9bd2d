#pragma once

#include <memory>
#include <span>
#include <vector>

#include "reward/config.h"
#include "data/prompt.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Builds a built-in reward from its recipe term.
std::unique_ptr<Reward> make_reward(const TermConfig& term);

/// Runs every term over the samples. Applies `on_error` = stop / retry here (retry: once more for the failed
/// samples); dropping is the business of whoever turns scores into advantages.
class Rewarder {
 public:
  explicit Rewarder(const RewardConfig& config);
  ScoreTable score(std::span<const data::Sample> samples);
  /// Throws BadInput `file:line: ...` for the first prompt that a term cannot judge.
  void check_prompts(std::span<const data::Prompt> prompts, const std::string& file) const;

 private:
  RewardConfig config_;
  std::vector<std::unique_ptr<Reward>> rewards_;
};

}  // namespace unigrpo::reward
