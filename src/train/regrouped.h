#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "grpo/update.h"
#include "rollout/trajectory.h"
#include "runtime/runtime.h"

namespace unigrpo::train {

/// The ranks of one update, where samples are trained by others than those that drew them. While it lives, samples of
/// other ranks that are trained here are whole; then they are outlines again.
class Regrouped {
 public:
  explicit Regrouped(std::vector<rollout::Trajectory>& trajectories) : trajectories_(trajectories) {}
  ~Regrouped();
  Regrouped(const Regrouped&) = delete;
  Regrouped& operator=(const Regrouped&) = delete;

  std::vector<rollout::Trajectory>& trajectories() { return trajectories_; }
  /// Of rows that are about to come.
  void keep_outlines(std::span<const int64_t> rows);

  std::vector<grpo::Minibatch> plan;  // where ranks are grouped anew for each micro-batch
  std::string summary;                // of the groups, in words

 private:
  std::vector<rollout::Trajectory>& trajectories_;
  std::vector<std::pair<int64_t, rollout::Trajectory>> outlines_;  // of rows that came
};

/// Each sample goes from the rank that drew it to those with its place in other stages: a pipeline's ranks train on the
/// same ones. `weights_version`: of the policy. Nothing happens where there are no stages.
void share_with_stages(const Runtime& runtime, uint64_t weights_version, Regrouped& regrouped);

}  // namespace unigrpo::train
