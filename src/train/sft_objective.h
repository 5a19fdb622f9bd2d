#pragma once

#include <memory>

#include "recipe/recipe.h"
#include "runtime/runtime.h"
#include "train/objective.h"

namespace unigrpo::train {

/// Supervised training of a policy of any family, all weights or LoRA: texts of the targets by cross-entropy, images by
/// flow matching, each under all that its example has before. Examples are the prompt file's own rows where these have
/// a `target`, else the embedded world's. A BAGEL folder with ae.safetensors and without ema.safetensors starts from
/// fresh weights. Throws BadInput where an input is missing or does not fit.
std::unique_ptr<Objective> make_sft_objective(const recipe::Recipe& recipe, const Runtime& runtime);

/// The embedded world's autoencoder: policy.model holds config files and tokenizer; what is written has ae.safetensors
/// too, and the latents' measured shift and scale in config.json.
std::unique_ptr<Objective> make_autoencoder_objective(const recipe::Recipe& recipe, const Runtime& runtime);

/// The same of a folder that draws clips, on rows of the world of picture and sound.
std::unique_ptr<Objective> make_clip_sft_objective(const recipe::Recipe& recipe, const Runtime& runtime);

/// Both autoencoders of such a folder; components that have a config alone get fresh weights, and the vocoder the
/// inverse of the lapped front end. What is written is a whole model folder, with the latents' measured statistics.
std::unique_ptr<Objective> make_clip_autoencoder_objective(const recipe::Recipe& recipe, const Runtime& runtime);

}  // namespace unigrpo::train
