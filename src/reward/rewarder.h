#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "reward/config.h"
#include "reward/reward.h"

namespace unigrpo::reward {

/// Builds a built-in reward from its recipe term.
std::unique_ptr<Reward> make_reward(const TermConfig& term);

/// Runs every term over the samples. Applies `on_error` = stop / retry here (retry: once more for
/// the failed samples); dropping is the business of whoever turns scores into advantages. A NaN or
/// infinite value becomes an empty one with a reason.
class Rewarder {
 public:
  /// Throws BadInput where two terms have one name.
  explicit Rewarder(const RewardConfig& config);
  /// With rewards of one's own, one a term.
  Rewarder(const RewardConfig& config, std::vector<std::unique_ptr<Reward>> rewards);

  /// Throws RuntimeFailure for a sample without a score under on_error = stop.
  ScoreTable score(std::span<const data::Sample> samples);
  /// Throws BadInput `file:line: ...` for the first prompt that a term cannot judge.
  void check_prompts(std::span<const data::Prompt> prompts, const std::string& file) const;

 private:
  RewardConfig config_;
  std::vector<std::unique_ptr<Reward>> rewards_;
};

}  // namespace unigrpo::reward
