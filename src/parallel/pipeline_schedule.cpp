#include "parallel/pipeline_schedule.h"

#include <algorithm>

namespace unigrpo::parallel {

std::vector<StageAction> pipeline_schedule(Schedule schedule, int64_t stages, int64_t stage, int64_t micro_batches) {
  const int64_t ahead =
      schedule == Schedule::gpipe ? micro_batches : std::min(stages - 1 - stage, micro_batches);  // of the backwards
  std::vector<StageAction> actions;
  for (int64_t i = 0; i < micro_batches + ahead; ++i) {
    if (i < micro_batches) actions.push_back({.micro_batch = i, .forward = true});
    if (i >= ahead) actions.push_back({.micro_batch = i - ahead, .forward = false});
  }
  return actions;
}

}  // namespace unigrpo::parallel
