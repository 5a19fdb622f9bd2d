#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "grpo/advantages.h"
#include "grpo/config.h"
#include "optim/adamw.h"
#include "optim/grad_clip.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"

namespace unigrpo::grpo {

/// Whether a term of the loss compares with the reference policy.
bool needs_reference(const GrpoConfig& config);

/// What an update needs beside the batch. `reference`: the frozen starting policy; null = the policy itself with its
/// adapters off. Neither is asked where no penalty needs it.
struct UpdateSetup {
  policy::UnifiedPolicy& policy;
  policy::UnifiedPolicy* reference = nullptr;
  optim::AdamW& optimizer;
  optim::GradClip& clip;
  const GrpoConfig& config;
  const rollout::RolloutConfig& rollout;
};

/// Metrics of one update by their names in docs/METRICS.md; losses and ratios are those of the last mini-batch's
/// weights at the time each was computed, averaged over mini-batches.
using UpdateStats = std::map<std::string, double>;

/// One or more optimizer steps over a rollout batch, each over a disjoint mini-batch of whole prompt groups:
///
///   loss = w_text * L_text + w_img * L_img + lambda * L_penalty
///
/// every term divided by the mini-batch's global counts, so that micro-batches do not change it.
UpdateStats update(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories,
                   const Advantages& advantages, double lr_factor);

/// The largest |log-prob of the training forward - log-prob of the rollout| over the first micro-batch, with unchanged
/// weights.
struct LogProbNoise {
  double text = 0, image = 0;
};
LogProbNoise measure_log_prob_noise(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories);

/// Rows in the order of the update, mini-batch by mini-batch, and the micro-batches of each.
std::vector<std::vector<std::vector<int64_t>>> plan_update(const GrpoConfig& config,
                                                           std::span<const rollout::Trajectory> trajectories,
                                                           const std::vector<bool>& keep);

}  // namespace unigrpo::grpo
