#pragma once

#include <map>
#include <span>
#include <string>

#include "rollout/trajectory.h"
#include "train/objective.h"

namespace unigrpo::train {

using Metrics = std::map<std::string, double>;  // by their names in docs/METRICS.md

/// <prefix>text/{length, truncated_ratio, entropy}, turn by turn.
void text_metrics(std::span<const rollout::Trajectory> trajectories, const std::string& prefix, Metrics& out);

/// What a step has sampled.
struct Drawn {
  double tokens = 0, images = 0, clips = 0;

  void count(std::span<const rollout::Trajectory> trajectories);
  /// <prefix>tokens_per_s, <prefix>images_per_s and <prefix>clips_per_s, each absent where there was none.
  void rates(const std::string& prefix, double seconds, Metrics& out) const;
};

/// <prefix>reward/{mean, std, dropped}, <prefix>reward/<term> and <prefix>advantage/zero_std_ratio, of all these tasks.
void reward_metrics(std::span<const TaskStep> tasks, const std::string& prefix, Metrics& out);

/// av/advantage_correlation: Pearson's, of the two streams' advantages over the samples that are kept; absent where one
/// of them has no spread.
void clip_metrics(const grpo::Advantages& advantages, Metrics& out);

/// Those of both of each task that has a name, under task/<name>/, and how many prompts it had.
void task_metrics(const Step& step, int64_t group_size, Metrics& out);

/// memory/peak_bytes: the most that this process has held; on CUDA, the most of the device's memory.
double peak_bytes(at::Device device);

}  // namespace unigrpo::train
