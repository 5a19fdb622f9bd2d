#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "policy/policy.h"
#include "recipe/recipe.h"
#include "recipe/tasks.h"
#include "reward/rewarder.h"
#include "rollout/engine.h"
#include "runtime/runtime.h"
#include "train/generation_config.h"

namespace unigrpo::train {

/// The policy of a recipe and, where a penalty needs one and there are no adapters to turn off, its frozen starting
/// copy.
struct Policies {
  std::unique_ptr<policy::UnifiedPolicy> policy;
  std::unique_ptr<policy::UnifiedPolicy> reference;  // null: adapters off, or nothing asks for one
};
Policies build_policies(const recipe::Recipe& recipe, const Runtime& runtime);

/// The terms of a recipe, those that need LibTorch among them.
reward::Rewarder build_rewarder(const reward::RewardConfig& config, const Runtime& runtime);

/// Group_size episodes a prompt. A prompt may come twice in a step; its place, of which the first one's is given, keeps
/// the random streams apart.
rollout::RolloutRequest request_for(std::span<const data::Prompt> prompts, int64_t group_size, int64_t first_place = 0);

/// How the model of a recipe is sampled for a task: its folder's settings under those of the rollout, without guidance.
GenerationConfig generation_of(const recipe::Recipe& recipe, const rollout::RolloutConfig& rollout);
/// The same for the recipe's first task.
GenerationConfig generation_of(const recipe::Recipe& recipe);

/// The same for `sft`, where the folder says all but the prompt.
GenerationConfig sft_generation_of(const recipe::Recipe& recipe);

/// generation_config.json of the models that `train` writes.
std::string written_generation(const recipe::Recipe& recipe);
/// Of those that `sft` writes; empty: the one of the folder that it began with.
std::optional<std::string> sft_written_generation(const recipe::Recipe& recipe);

/// What a step is, in numbers, as the table that a run starts with.
/// `prefix_tokens`: of a prompt of each task.
std::string describe_step(const recipe::Recipe& recipe, policy::UnifiedPolicy& policy,
                          std::span<const recipe::Task> tasks, std::span<const int64_t> prefix_tokens);

}  // namespace unigrpo::train
