#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "reward/rewarder.h"
#include "rollout/engine.h"
#include "runtime/runtime.h"

namespace unigrpo::train {

/// Samples of all ranks and what the rewards say of them: group by group, those of other ranks as outlines.
struct Batch {
  std::vector<rollout::Trajectory> trajectories;
  reward::ScoreTable scores;
  double rollout_seconds = 0;            // of the slowest rank
  std::exception_ptr missing = nullptr;  // a score is missing on a rank under reward.on_error = stop: for the caller to
                                         // throw, once it is written down
};

/// What is drawn, and when it is judged.
struct DrawRequest {
  rollout::RolloutRequest rollout;          // of the whole step; its ranges and on_group are set here
  int64_t first_group = 0, num_groups = 0;  // of the step's groups, which are dealt together; 0: these are all
  bool judge_at_once = true;                // a group as soon as it is sampled; else all in one call at the end
  bool keeps_groups = false;                // none is cut, also where ranks outnumber them
  int64_t reward_ranks = 0;                 // the last ranks, which judge what the others draw (train/reward_ranks.h)
  std::function<void()> on_sampled = {};    // between rollout and reward
};

/// Every rank samples its share of the groups (rollout/deal.h) and has it judged; then all have all of it. Ranks that
/// share sequences sample the same, and the first of them has it judged. A reward
/// that wants whole groups judges a group that was cut on the rank that has its first sample, or on its judge. Empty
/// where a stop came, on any rank: the batch may have been cut short.
std::optional<Batch> draw(rollout::RolloutEngine& engine, reward::Rewarder& rewarder, const Runtime& runtime,
                          DrawRequest request);

/// The samples of these rows with their pixels, on the root; nothing on the others.
std::vector<data::Sample> whole_samples(const Runtime& runtime, std::span<const rollout::Trajectory> trajectories,
                                        std::span<const size_t> rows);

}  // namespace unigrpo::train
