#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "recipe/recipe.h"

namespace unigrpo::recipe {

/// What a step trains on, with all that is the task's own. The one place where a recipe without [[tasks]] becomes a
/// list of one task: whoever trains, plans or counts goes by this list.
struct Task {
  std::string name;  // empty: the recipe has no [[tasks]]
  std::string key;   // "tasks.0"; empty with the name
  std::string prompts, eval_prompts;
  rollout::RolloutConfig rollout;
  reward::RewardConfig reward;
  std::vector<size_t> terms;  // which of [[rewards]] those of `reward` are
  Share share;

  bool is_named() const { return !name.empty(); }
  /// "run.toml:3:9: tasks.0.prompts: ", to begin a message about that key with; empty without a name.
  std::string at(const Recipe& recipe, std::string_view field) const;
};

/// What `work` refuses is said of that key of the task.
template <typename Work>
auto told_of(const Recipe& recipe, const Task& task, std::string_view field, const Work& work) {
  try {
    return work();
  } catch (const BadInput& error) {
    throw BadInput("{}{}", task.at(recipe, field), error.what());
  }
}

/// Names of rewards that are none are left out; find_conflict tells of them.
std::vector<Task> tasks_of(const Recipe& recipe);

/// What the update goes by, which tasks have in common but for the length of texts: there the longest.
rollout::RolloutConfig joint_rollout(std::span<const Task> tasks);

/// How many of a step's `prompts` are each task's, by largest remainder of their shares, the first of equal ones first.
std::vector<int64_t> prompts_of(std::span<const Task> tasks, int64_t prompts, int64_t steps_done);

/// The steps of a run of `num_steps` from which on the tasks' prompts are others than in the step before, 0 first: at
/// most `most` of them, in order.
std::vector<int64_t> changes_of(std::span<const Task> tasks, int64_t prompts, int64_t num_steps, size_t most);

}  // namespace unigrpo::recipe
