#pragma once

#include "recipe/recipe.h"

namespace unigrpo::train {

/// Warm start: trains what `sft.stage` says and writes the model folder `sft.output`, with metrics in the run folder.
///
/// autoencoder: policy.model holds the config files and the tokenizer; writes ae.safetensors and puts the latents'
/// measured shift and scale into config.json. joint: policy.model also holds ae.safetensors (and, to go on,
/// ema.safetensors); trains text by cross-entropy on the plan and images by flow matching under prompt and plan; writes
/// ema.safetensors. Throws BadInput where an input is missing or the output exists.
void run_sft(const recipe::Recipe& recipe);

}  // namespace unigrpo::train
