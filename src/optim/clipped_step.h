#pragma once

#include <map>
#include <string>

#include "optim/adamw.h"
#include "optim/grad_clip.h"
#include "runtime/runtime.h"

namespace unigrpo::optim {

/// One step with the gradients that are there, summed over all ranks and clipped, or none where their norm is not
/// finite; then they are dropped. Adds optim/grad_norm and, where weights are bf16, optim/lost_updates to `metrics`.
void clipped_step(AdamW& optimizer, GradClip& clip, const Runtime& runtime, double lr_factor,
                  std::map<std::string, double>& metrics);

}  // namespace unigrpo::optim
