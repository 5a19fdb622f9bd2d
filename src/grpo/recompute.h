#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "grpo/pack.h"
#include "grpo/update_stats.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"
#include "tensor/device.h"

namespace unigrpo::grpo {

struct RecomputedStream {
  at::Tensor velocity = {};   // [R, L, D]
  at::Tensor log_probs = {};  // [R], of stochastic steps; whatever elsewhere
};

/// What a training forward says about the actions of a packed batch.
struct Recomputed {
  at::Tensor text_log_probs;            // [sum K]
  std::vector<RecomputedStream> flows;  // a stream each
  std::vector<std::vector<policy::ContextDigest>> digests;
};

Recomputed recompute(policy::UnifiedPolicy& policy, const rollout::RolloutConfig& rollout, const PackedBatch& packed);
/// The same of a forward that was made.
Recomputed recomputed(const policy::UnifiedPolicy& policy, const rollout::RolloutConfig& rollout,
                      const PackedBatch& packed, policy::TrainOutput out);

/// Throws RuntimeFailure where an action is about to be trained under other conditions than those it was sampled under.
/// `weights_version`: of the policy when the update began; later mini-batches of the same rollout are trained on newer
/// weights on purpose.
void require_same_fingerprint(const policy::UnifiedPolicy& policy, const rollout::RolloutConfig& rollout,
                              std::span<const rollout::Trajectory> trajectories, const PackedBatch& packed,
                              const Recomputed& now, uint64_t weights_version);

/// Each segment's largest difference from the rollout's log-probs, as <modality>/log_prob_diff of its turn.
void note_log_prob_diff(const PackedBatch& packed, const Recomputed& now, tensor::Readings& numbers);

}  // namespace unigrpo::grpo
