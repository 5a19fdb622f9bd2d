#pragma once

#include <cstdint>
#include <vector>

#include "data/prompt.h"

namespace unigrpo::data {

/// Draws the prompts of a step without state: epoch after epoch of seeded permutations, so that step k's prompts
/// are a function of (prompt set, seed, k, prompts_per_step) alone. Weights other than 1 repeat a prompt within an
/// epoch in proportion (stochastic rounding by the epoch's stream).
class PromptSampler {
 public:
  PromptSampler(std::vector<Prompt> prompts, uint64_t seed, int64_t prompts_per_step);
  PromptBatch batch(int64_t step) const;
  const std::vector<Prompt>& prompts() const { return prompts_; }

 private:
  std::vector<Prompt> prompts_;
  uint64_t seed_;
  int64_t prompts_per_step_;
};

}  // namespace unigrpo::data
