#pragma once

#include <map>
#include <string>

#include "optim/adamw.h"
#include "optim/grad_clip.h"

namespace unigrpo::optim {

/// One step with the gradients that are there, clipped, or none where their norm is not finite; then they are dropped.
/// Adds optim/grad_norm and, where weights are bf16, optim/lost_updates to `metrics`.
void clipped_step(AdamW& optimizer, GradClip& clip, double lr_factor, std::map<std::string, double>& metrics);

}  // namespace unigrpo::optim
