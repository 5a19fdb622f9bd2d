#include "train/objective.h"

#include "train/grpo_objective.h"
#include "train/sft_objective.h"

namespace unigrpo::train {

std::unique_ptr<Objective> make_objective(const recipe::Recipe& recipe, recipe::Command command,
                                          const Runtime& runtime) {
  if (command != recipe::Command::sft) return make_grpo_objective(recipe, runtime);
  return recipe.sft.stage == recipe::SftStage::autoencoder ? make_autoencoder_objective(recipe, runtime)
                                                           : make_sft_objective(recipe, runtime);
}

}  // namespace unigrpo::train
