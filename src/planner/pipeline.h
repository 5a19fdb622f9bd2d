#pragma once

#include <cstdint>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::planner {

/// 1F1B ("pipedream_flush" in Galvatron's files) and GPipe.
UNIGRPO_ENUM(Schedule, UNIGRPO_SPELLED(one_f_one_b, "1f1b"), gpipe);

struct PipelineTimes {
  Schedule schedule = Schedule::one_f_one_b;
  int64_t micro_batches = 1;
  std::vector<double> forward, backward;  // ms of a micro-batch, a stage
  std::vector<double> p2p;                // ms between stage i and i + 1, either way; links never block
};

/// One piece of a stage's work.
struct PipelineEvent {
  int64_t stage = 0, micro_batch = 0;
  bool forward = true;
  double start = 0, end = 0;  // ms
};

struct PipelineRun {
  double makespan = 0;
  std::vector<int64_t> peak_in_flight;  // micro-batches that a stage holds at once
  std::vector<double> idle;             // ms of the makespan, a stage
  std::vector<double> end;              // of a stage's last backward
};

/// Plays the schedule: stage i of p does min(p - 1 - i, m) forwards, then pairs of a forward and a backward, then the
/// rest (1F1B), or all forwards, then all backwards. `events`, if given, gets every piece of work, a stage after the
/// other.
PipelineRun play_pipeline(const PipelineTimes& times, std::vector<PipelineEvent>* events = nullptr);

/// Micro-batches whose activations a stage holds at most.
int64_t held_micro_batches(Schedule schedule, int64_t stages, int64_t stage, int64_t micro_batches);

}  // namespace unigrpo::planner
