#pragma once

#include <memory>

#include "monitor/monitor.h"
#include "monitor/run_folder.h"
#include "recipe/recipe.h"
#include "runtime/runtime.h"
#include "train/objective.h"

namespace unigrpo::train {

/// Reinforcement learning: prompts -> rollout -> rewards -> advantages -> update. Reads the model, the prompts and what
/// the rewards need; throws BadInput for a prompt that a reward cannot judge or that is too long for the model.
std::unique_ptr<Objective> make_grpo_objective(const recipe::Recipe& recipe, const Runtime& runtime);

}  // namespace unigrpo::train
