#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "planner/step_groups.h"
#include "recipe/recipe.h"
#include "rollout/trajectory.h"
#include "runtime/runtime.h"
#include "train/regrouped.h"
#include "train/step_metrics.h"

namespace unigrpo::train {

struct Policies;  // build.h

/// Sequence parallelism by the lengths of a step (planner/step_groups.h): before an update the ranks tell each other
/// how long their samples are, the root plans, and samples go to the ranks that train on them.
class FlexibleSp {
 public:
  /// Costs are those of the profile, or counted. Throws BadInput as readers of profiles and models do.
  FlexibleSp(const recipe::Recipe& recipe, const Runtime& runtime, const Policies& policies);

  /// In words, for the start of a run.
  const std::string& describe() const { return description_; }

  /// All ranks together. `weights_version`: of the policy. Adds time/plan, parallel/plan_*, parallel/groups_of_*.
  void regroup(const std::vector<bool>& keep, uint64_t weights_version, Regrouped& regrouped, Metrics& out) const;

 private:
  void move_samples(const std::vector<std::vector<planner::SequenceGroup>>& turns, const std::vector<int64_t>& owners,
                    uint64_t weights_version, Regrouped& regrouped) const;

  const recipe::Recipe& recipe_;
  const Runtime& runtime_;
  planner::SequenceCosts costs_;
  std::string description_;
};

}  // namespace unigrpo::train
