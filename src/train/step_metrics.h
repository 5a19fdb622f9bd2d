#pragma once

#include <map>
#include <span>
#include <string>

#include "grpo/advantages.h"
#include "reward/score.h"
#include "rollout/trajectory.h"

namespace unigrpo::train {

using Metrics = std::map<std::string, double>;  // by their names in docs/METRICS.md

/// text/{length, truncated_ratio, entropy}, turn by turn, and how fast the rollout was.
void rollout_metrics(std::span<const rollout::Trajectory> trajectories, double seconds, Metrics& out);

/// reward/{mean, std, dropped}, reward/<term> and advantage/zero_std_ratio.
void reward_metrics(const reward::ScoreTable& scores, const grpo::Advantages& advantages, Metrics& out);

/// memory/peak_bytes: the most that this process has held.
double peak_bytes();

}  // namespace unigrpo::train
