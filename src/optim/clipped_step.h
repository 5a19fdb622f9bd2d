#pragma once

#include <map>
#include <string>

#include "optim/adamw.h"
#include "optim/grad_clip.h"
#include "runtime/runtime.h"

namespace unigrpo::parallel {
class ShardedModel;
}

namespace unigrpo::optim {

/// One step with the gradients that are there, summed over all ranks and clipped, or none where their norm is not
/// finite; then they are dropped. Adds optim/grad_norm and, where weights are bf16, optim/lost_updates to `metrics`.
/// `sharded`: what the optimizer's pieces are of; null where it has whole parameters.
void clipped_step(AdamW& optimizer, GradClip& clip, const Runtime& runtime, double lr_factor,
                  std::map<std::string, double>& metrics, parallel::ShardedModel* sharded = nullptr);

/// Drops all gradients, of parameters and pieces.
void drop_gradients(AdamW& optimizer, parallel::ShardedModel* sharded);

}  // namespace unigrpo::optim
