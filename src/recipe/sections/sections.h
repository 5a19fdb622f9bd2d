#pragma once

#include <vector>

#include "recipe/schema.h"

namespace unigrpo::recipe {

// The rows of each module's config.h, in the order in which a recipe is written: a file a module.
std::vector<Section> run_sections();
std::vector<Section> policy_sections();
std::vector<Section> data_sections();
std::vector<Section> rollout_sections();
std::vector<Section> grpo_sections();
std::vector<Section> reward_sections();
std::vector<Section> optim_sections();
std::vector<Section> checkpoint_sections();
std::vector<Section> parallel_sections();
std::vector<Section> monitor_sections();
std::vector<Section> eval_sections();
std::vector<Section> sft_sections();
std::vector<Section> task_sections();
/// [[eval.rewards]]: rows of the same config as those of [[rewards]].
Section eval_rewards_section();

}  // namespace unigrpo::recipe
