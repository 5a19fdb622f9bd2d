#include "train/objective.h"

#include "base/error.h"
#include "parallel/groups.h"
#include "policy/family.h"
#include "runtime/ranks.h"
#include "train/grpo_objective.h"
#include "train/sft_objective.h"

namespace unigrpo::train {

std::unique_ptr<Objective> make_objective(const recipe::Recipe& recipe, recipe::Command command,
                                          const Runtime& runtime) {
  if (command != recipe::Command::sft) return make_grpo_objective(recipe, runtime);
  if (has_stages(runtime)) {
    throw BadInput("parallel.plan: {} has {} stages, and `unigrpo sft` has none; expected stage 0 for all layers",
                   recipe.parallel.plan, runtime.groups->shape.stages());
  }
  const bool autoencoder = recipe.sft.stage == recipe::SftStage::autoencoder;
  if (policy::family_of(recipe.policy.model).generates_clips) {
    return autoencoder ? make_clip_autoencoder_objective(recipe, runtime) : make_clip_sft_objective(recipe, runtime);
  }
  return autoencoder ? make_autoencoder_objective(recipe, runtime) : make_sft_objective(recipe, runtime);
}

}  // namespace unigrpo::train
