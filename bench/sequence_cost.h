#pragma once

#include <cmath>
#include <cstdint>

#include "planner/flexible_sequence.h"

namespace unigrpo::bench {

/// FlexSP's of a 7B model (arXiv 2412.01523).
inline planner::SequenceCost cost_7b() {
  planner::SequenceCost cost{.alpha1 = 5.128e-6,
                             .alpha2 = 0.1839576,
                             .beta = 629.3563,
                             .comm_ms_per_token = {{1, 0.0}},
                             .tokens_per_rank = 6450};
  const double speed[] = {119.5, 104.1, 96.5, 10.33, 5.94, 4.87};
  for (int i = 0; i < 6; ++i) {
    const double degree = std::pow(2, i + 1);
    cost.comm_ms_per_token[static_cast<int64_t>(degree)] = 16.0 * 32 * 4096 / 1048576 / degree / speed[i];
  }
  return cost;
}

}  // namespace unigrpo::bench
