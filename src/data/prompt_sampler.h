#pragma once

#include <cstdint>
#include <vector>

#include "data/prompt.h"

namespace unigrpo::data {

/// Draws the prompts of a step without state: epoch after epoch of seeded permutations, so that
/// step k's prompts are a function of (prompt set, seed, k, prompts_per_step) alone. An epoch holds
/// every prompt once where all weights are 1; other weights repeat a prompt in proportion (its
/// weight rounded up or down at random, with the weight as mean), and an epoch is as long as their
/// sum.
class PromptSampler {
 public:
  /// Throws BadInput where there is no prompt or prompts_per_step is below 1.
  PromptSampler(std::vector<Prompt> prompts, uint64_t seed, int64_t prompts_per_step);
  /// The prompts of step 0, 1, 2, ...; one may come twice where an epoch ends within the step.
  PromptBatch batch(int64_t step) const;
  /// `count` prompts from place `first` of the endless order on, of which batch(k) is [k prompts_per_step, ...).
  std::vector<Prompt> range(int64_t first, int64_t count) const;
  const std::vector<Prompt>& prompts() const { return prompts_; }

 private:
  std::vector<int64_t> epoch_order(int64_t epoch) const;
  std::vector<Prompt> prompts_;
  std::vector<double> shares_;  // running sum of the weights, scaled to the epoch; empty: all are 1
  int64_t epoch_length_ = 0;
  uint64_t seed_;
  int64_t prompts_per_step_;
};

}  // namespace unigrpo::data
