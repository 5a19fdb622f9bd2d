#pragma once

#include <cstdint>

#include "runtime/runtime.h"
#include "train/step_metrics.h"

namespace unigrpo::train {

/// What a step's ranks took and gave: memory/peak_bytes, the most that any of them has held, memory/state_bytes, and
/// where there are several
///
///   parallel/bytes_sent       by all ranks together
///   parallel/comm_share       of the step: in calls among ranks while none of them kept the others waiting
///   parallel/wait_share_min, parallel/wait_share_max
///                             of the step: in calls, waiting for ranks that came later; of the rank that waited least,
///                             and most
///   parallel/slowest_rank     the one that waited least, for which the others waited
///
/// A call's own time is taken to be that of the rank that came last: the shortest of all ranks'.
class RankMeter {
 public:
  /// `state_bytes`: what this rank holds from step to step.
  RankMeter(const Runtime& runtime, int64_t state_bytes) : runtime_(runtime), state_bytes_(state_bytes) {}

  /// A step begins.
  void begin();
  /// It is done but for what follows its update, after so many seconds. All ranks call it.
  void measure(double seconds, Metrics& out);

 private:
  const Runtime& runtime_;
  const int64_t state_bytes_;
  int64_t bytes_before_ = 0;
};

}  // namespace unigrpo::train
