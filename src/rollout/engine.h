#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "flow/config.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"

namespace unigrpo::rollout {

/// What to sample.
struct RolloutRequest {
  std::span<const data::Prompt> prompts;  // [P]
  std::vector<uint64_t> keys;             // [P] random stream of each prompt
  int64_t group_size = 1;                 // G episodes a prompt
  int64_t first_sample = 0;               // of their sample indices
  uint64_t step = 0;                      // of the run; part of every random key
  bool stochastic = true;                 // false: no SDE window, every denoising step is an ODE step
  double guidance = 1.0;                  // text guidance; sample, eval and one ablation only
  std::vector<std::string> forced_text;   // [P] or empty: the first text segment is this instead of sampled
};

/// Samples groups of episodes by the recipe's program. The result depends on (policy, config, seed, request) alone; how many
/// rows run together follows from config.token_budget, never from free memory or time.
class RolloutEngine {
 public:
  /// `system_prompt`: text block before every prompt; empty = none.
  RolloutEngine(policy::UnifiedPolicy& policy, const RolloutConfig& config, uint64_t seed, std::string system_prompt);

  /// P x G trajectories, group by group, images decoded.
  std::vector<Trajectory> rollout(const RolloutRequest& request);

  /// Token ids of a prompt's prefix: [system block] prompt block, a block being bos ids eos.
  std::vector<int64_t> prefix_ids(const data::Prompt& prompt) const;

 private:
  policy::UnifiedPolicy& policy_;
  RolloutConfig config_;
  uint64_t seed_;
  std::string system_prompt_;
};

}  // namespace unigrpo::rollout
