#pragma once

#include <cstdint>

#include "base/enum_names.h"

namespace unigrpo::parallel {

UNIGRPO_ENUM(Backend, UNIGRPO_SPELLED(automatic, "auto"), gloo, nccl);

struct ParallelConfig {  // recipe: [parallel]
  Backend backend = Backend::automatic;
  int64_t meeting_timeout_s = 300;     // until all ranks have met
  int64_t first_step_timeout_s = 300;  // of a call among ranks, up to the end of the first step
  int64_t step_timeout_s = 120;        // of one in a later step
  int64_t save_timeout_s = 600;        // of one while a checkpoint or a model is written
};

}  // namespace unigrpo::parallel
