#include "grpo/update.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "grpo/pack.h"
#include "grpo/recompute.h"
#include "optim/clipped_step.h"

namespace unigrpo::grpo {
namespace {

using rollout::Trajectory;

PackedBatch pack_for(const UpdateSetup& setup, std::span<const Trajectory> trajectories,
                     std::span<const int64_t> rows) {
  return pack(setup.policy, trajectories, rows, setup.config.image.context_gradient == ContextGradient::detached,
              setup.rollout.rollout_cfg_scale != 1.0);
}

/// What the reference says of the same actions; nothing where no term compares with it.
Recomputed of_reference(const UpdateSetup& setup, const PackedBatch& packed) {
  if (!needs_reference(setup.config)) return {};
  const at::NoGradGuard no_grad;
  if (setup.reference) return recompute(*setup.reference, setup.rollout, packed);
  const policy::AdaptersOff off(setup.policy);
  return recompute(setup.policy, setup.rollout, packed);
}

}  // namespace

std::vector<std::vector<std::vector<int64_t>>> plan_update(const GrpoConfig& config,
                                                           std::span<const Trajectory> trajectories,
                                                           const std::vector<bool>& keep) {
  std::map<int64_t, int64_t> groups;  // those that are kept, in order: prompt -> its place among them
  int64_t num_rows = 0;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    if (!keep[i]) continue;
    groups[trajectories[i].prompt_index] = 0;
    ++num_rows;
  }
  int64_t num_groups = 0;
  for (auto& [prompt, place] : groups) place = num_groups++;
  // Whole groups, evenly; where too few are left for all optimizer steps, their rows.
  const bool by_group = num_groups >= config.num_minibatches;
  const int64_t pieces = by_group ? num_groups : num_rows;
  const int64_t updates = std::min(config.num_minibatches, pieces);
  std::vector<std::vector<int64_t>> minibatches(static_cast<size_t>(updates));
  int64_t row = 0;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    if (!keep[i]) continue;
    const int64_t piece = by_group ? groups.at(trajectories[i].prompt_index) : row++;
    minibatches[static_cast<size_t>(((piece + 1) * updates - 1) / pieces)].push_back(static_cast<int64_t>(i));
  }
  std::vector<std::vector<std::vector<int64_t>>> plan;
  for (const auto& rows : minibatches) {
    plan.push_back(plan_micro_batches(trajectories, rows, config.micro_batch_tokens));
  }
  return plan;
}

LogProbNoise measure_log_prob_noise(const UpdateSetup& setup, std::span<const Trajectory> trajectories) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> all(trajectories.size());
  std::iota(all.begin(), all.end(), 0);
  const auto batches = plan_micro_batches(trajectories, all, setup.config.micro_batch_tokens);
  LogProbNoise noise;
  if (batches.empty()) return noise;
  const PackedBatch packed = pack_for(setup, trajectories, batches.front());
  const Recomputed now = recompute(setup.policy, setup.rollout, packed);
  require_same_fingerprint(setup.policy, setup.rollout, trajectories, packed, now, setup.policy.weights_version());
  UpdateStats turns;
  note_log_prob_diff(packed, now, turns);
  for (const auto& [name, value] : turns) {
    double& most = name.ends_with("text/log_prob_diff") ? noise.text : noise.image;
    most = std::max(most, value);
  }
  return noise;
}

UpdateStats update(const UpdateSetup& setup, std::span<const Trajectory> trajectories, const Advantages& advantages,
                   double lr_factor) {
  const auto plan = plan_update(setup.config, trajectories, advantages.keep);
  const uint64_t weights_version = setup.policy.weights_version();
  UpdateStats stats, noise;
  double micro_batches = 0;
  for (size_t u = 0; u < plan.size(); ++u) {
    const MinibatchLoss minibatch(setup.config, setup.rollout, advantages,
                                  count_turns(setup.config, trajectories, plan[u]));
    setup.optimizer.zero_grad();
    for (const auto& rows : plan[u]) {
      const PackedBatch packed = pack_for(setup, trajectories, rows);
      const Recomputed reference = of_reference(setup, packed);
      const Recomputed now = recompute(setup.policy, setup.rollout, packed);
      require_same_fingerprint(setup.policy, setup.rollout, trajectories, packed, now, weights_version);
      if (u == 0) note_log_prob_diff(packed, now, noise);  // the weights are still the rollout's
      const at::Tensor loss = minibatch.loss(packed, now, reference, stats);
      if (loss.defined() && loss.requires_grad()) loss.backward();
      ++micro_batches;
    }
    optim::clipped_step(setup.optimizer, setup.clip, lr_factor, stats);
  }
  if (!plan.empty()) {
    for (auto& [name, value] : stats) value /= static_cast<double>(plan.size());
    stats.insert(noise.begin(), noise.end());
  }
  stats["optim/micro_batches"] = micro_batches;
  stats["optim/skipped"] = static_cast<double>(setup.clip.skipped());
  return stats;
}

}  // namespace unigrpo::grpo
