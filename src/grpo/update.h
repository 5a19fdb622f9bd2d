#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "grpo/advantages.h"
#include "grpo/config.h"
#include "grpo/minibatch_loss.h"
#include "optim/adamw.h"
#include "optim/grad_clip.h"
#include "policy/policy.h"
#include "rollout/config.h"
#include "rollout/trajectory.h"
#include "runtime/runtime.h"

namespace unigrpo::grpo {

/// What one optimizer step is made of: rows of the trajectories, outlines among them, in the order of the update; and
/// the micro-batches of those that are held here.
struct Minibatch {
  std::vector<int64_t> rows;
  std::vector<std::vector<int64_t>> micro_batches;
  /// Where ranks are grouped anew for each micro-batch, of which all have as many: how many neighbours share its
  /// sequences, all of which have the same rows in it.
  std::vector<int64_t> degrees = {};
};

/// What an update needs beside the batch. `reference`: the frozen starting policy; null = the policy itself with its
/// adapters off. Neither is asked where no penalty needs it.
struct UpdateSetup {
  policy::UnifiedPolicy& policy;
  policy::UnifiedPolicy* reference = nullptr;
  optim::AdamW& optimizer;
  optim::GradClip& clip;
  const GrpoConfig& config;
  const rollout::RolloutConfig& rollout;
  Runtime runtime = {};  // its threads and its stop token
  /// Of this batch, where ranks are grouped anew; null: plan_update()'s.
  const std::vector<Minibatch>* plan = nullptr;
};

/// Optimizer steps over a rollout batch, one a mini-batch of plan_update(); the loss is minibatch_loss.h's. Empty where
/// a stop came, which is asked before each micro-batch: the mini-batch under way is dropped, those before it have moved
/// the weights. Fault point: update.micro_batch.
///
/// On several ranks all have the same batch and each trains on the trajectories that it holds, the others being
/// outlines: gradients are summed once a mini-batch, and what it returns is of all ranks. Ranks that share sequences
/// hold the same trajectories; each has the gradients of its own rows of them.
///
/// Where weights or gradients are spread over ranks, or ranks are grouped anew, the ranks meet within micro-batches, of
/// which all make as many.
///
/// Micro-batches of a small model (policy::is_small) that keeps its activations run on workers, one a thread of the
/// runtime; their gradients are added in the order of the plan, so that the bits are those of one thread.
std::optional<UpdateStats> update(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories,
                                  const Advantages& advantages, double lr_factor);

/// The largest |log-prob of the training forward - log-prob of the rollout| over the first micro-batch of each rank,
/// with unchanged weights.
struct LogProbNoise {
  double text = 0, image = 0, video = 0, audio = 0;
};
LogProbNoise measure_log_prob_noise(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories);

/// There are num_minibatches of whole prompt groups; of single samples where fewer groups than that are kept; fewer
/// only where fewer samples are.
std::vector<Minibatch> plan_update(const GrpoConfig& config, std::span<const rollout::Trajectory> trajectories,
                                   const std::vector<bool>& keep);

}  // namespace unigrpo::grpo
