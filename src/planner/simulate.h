#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/enum_names.h"
#include "planner/search.h"

namespace unigrpo::planner {

UNIGRPO_ENUM(Lane, compute, communication);

/// A step played event by event: on every rank a stream of compute and one of communication, each slower by the model's
/// overlap while both are busy. The ranks of a stage do the same at the same time, so one stands for all of them.
struct SimulatedEvent {
  int64_t stage = 0;
  Lane lane = Lane::compute;
  std::string name;           // "forward 3", "gather", "sync"
  double start = 0, end = 0;  // ms
};

struct SimulatedStage {
  double busy = 0, exposed = 0, idle = 0;  // shares of the step: compute, communication alone, neither
  double peak_mb = 0;
};

struct Simulation {
  double step_ms = 0;
  std::vector<SimulatedStage> stages;
  std::vector<SimulatedEvent> events;
};

Simulation simulate_plan(const PlannedModel& model, const Cluster& cluster, const Repairs& repairs, const Plan& plan);

/// The events in the format of chrome://tracing and Perfetto: a process a stage, a thread a stream.
nlohmann::json chrome_trace(const Simulation& simulation);

/// Work on two streams, each in its order; a piece waits for one of the other stream.
struct StreamPiece {
  double ms = 0;
  int64_t needs = -1;  // index of the other stream's piece that must have ended; below 0: none
};
struct TwoStreams {
  double end = 0;
  std::vector<std::pair<double, double>> compute, traffic;  // start and end of each piece
};
TwoStreams play_streams(const std::vector<StreamPiece>& compute, const std::vector<StreamPiece>& traffic,
                        double overlap);

}  // namespace unigrpo::planner
