#include "planner/pipeline.h"

#include <algorithm>

namespace unigrpo::planner {
namespace {

/// The order of a stage's work: piece `index` of 2 m.
struct Piece {
  bool forward;
  int64_t micro_batch;
};
Piece piece_of(Schedule schedule, int64_t stages, int64_t stage, int64_t m, int64_t index) {
  const int64_t warm = schedule == Schedule::gpipe ? m : std::min(stages - 1 - stage, m);
  if (index < warm) return {true, index};
  const int64_t pair = (index - warm) / 2, in_pair = (index - warm) % 2;
  if (warm + pair < m) return in_pair == 0 ? Piece{true, warm + pair} : Piece{false, pair};
  return {false, index - m};
}

}  // namespace

int64_t held_micro_batches(Schedule schedule, int64_t stages, int64_t stage, int64_t micro_batches) {
  return schedule == Schedule::gpipe ? micro_batches : std::min(stages - stage, micro_batches);
}

PipelineRun play_pipeline(const PipelineTimes& times, std::vector<PipelineEvent>* events) {
  const auto stages = static_cast<int64_t>(times.forward.size());
  const int64_t m = times.micro_batches;
  PipelineRun run;
  run.end.assign(stages, 0);
  std::vector<int64_t> next(stages, 0);
  std::vector<double> forward_end(stages * m, -1), backward_end(stages * m, -1);
  // A stage runs on as far as what it waits for is known; the neighbours' progress lets it go on. Each sweep in either
  // direction moves at least one piece, so that the work is linear in the pieces but for a factor of the stages.
  bool moved = true;
  const auto advance = [&](int64_t i) {
    for (; next[i] < 2 * m; ++next[i]) {
      const Piece piece = piece_of(times.schedule, stages, i, m, next[i]);
      double ready = 0;
      if (piece.forward && i > 0) {
        const double before = forward_end[(i - 1) * m + piece.micro_batch];
        if (before < 0) return;
        ready = before + times.p2p[i - 1];
      } else if (!piece.forward && i + 1 < stages) {
        const double after = backward_end[(i + 1) * m + piece.micro_batch];
        if (after < 0) return;
        ready = after + times.p2p[i];
      }
      const double start = std::max(run.end[i], ready);
      const double end = start + (piece.forward ? times.forward[i] : times.backward[i]);
      (piece.forward ? forward_end : backward_end)[i * m + piece.micro_batch] = end;
      run.end[i] = end;
      moved = true;
      if (events) events->push_back({i, piece.micro_batch, piece.forward, start, end});
    }
  };
  while (moved) {
    moved = false;
    for (int64_t i = 0; i < stages; ++i) advance(i);
    for (int64_t i = stages - 1; i >= 0; --i) advance(i);
  }
  for (const double end : run.end) run.makespan = std::max(run.makespan, end);
  for (int64_t i = 0; i < stages; ++i) {
    run.peak_in_flight.push_back(held_micro_batches(times.schedule, stages, i, m));
    run.idle.push_back(run.makespan - static_cast<double>(m) * (times.forward[i] + times.backward[i]));
  }
  if (events) {
    std::ranges::stable_sort(*events, {}, [](const PipelineEvent& event) { return event.stage; });
  }
  return run;
}

}  // namespace unigrpo::planner
