#pragma once

#include <map>
#include <span>
#include <string>

#include "grpo/advantages.h"
#include "reward/score.h"
#include "rollout/trajectory.h"

namespace unigrpo::train {

using Metrics = std::map<std::string, double>;  // by their names in docs/METRICS.md

/// text/{length, truncated_ratio, entropy}, turn by turn.
void text_metrics(std::span<const rollout::Trajectory> trajectories, Metrics& out);

/// What a step has sampled.
struct Drawn {
  double tokens = 0, images = 0;

  void count(std::span<const rollout::Trajectory> trajectories);
  /// <prefix>tokens_per_s and <prefix>images_per_s, each absent where there was none.
  void rates(const std::string& prefix, double seconds, Metrics& out) const;
};

/// reward/{mean, std, dropped}, reward/<term> and advantage/zero_std_ratio.
void reward_metrics(const reward::ScoreTable& scores, const grpo::Advantages& advantages, Metrics& out);

/// memory/peak_bytes: the most that this process has held; on CUDA, the most of the device's memory.
double peak_bytes(at::Device device);

}  // namespace unigrpo::train
