#pragma once

#include <cstdint>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::parallel {

/// 1F1B (PipeDream-Flush: Narayanan et al., arXiv 2006.09503) and GPipe (Huang et al., arXiv 1811.06965). Both compute
/// the same; 1F1B holds the activations of as many micro-batches as there are stages from here on, GPipe those of all.
UNIGRPO_ENUM(Schedule, UNIGRPO_SPELLED(one_f_one_b, "1f1b"), gpipe);

/// A piece of a stage's work on an optimizer step: a micro-batch forward, or backward.
struct StageAction {
  int64_t micro_batch = 0;
  bool forward = true;
  bool operator==(const StageAction&) const = default;
};

/// What stage `stage` of `stages` does, in order: min(stages - 1 - stage, micro_batches) forwards, then pairs of a
/// forward and a backward, then the backwards that are left (1F1B); or all forwards, then all backwards (GPipe). The
/// planner plays the same order (planner/pipeline.h).
std::vector<StageAction> pipeline_schedule(Schedule schedule, int64_t stages, int64_t stage, int64_t micro_batches);

}  // namespace unigrpo::parallel
