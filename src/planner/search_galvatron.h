#pragma once

#include <optional>
#include <vector>

#include "planner/cost_galvatron.h"

namespace unigrpo::planner {

struct GalvatronQuery {
  GalvatronSetting setting;  // its micro_batches: 0 = every divisor of the batch is tried
  double memory_gib = 80;
  Space space{.max_tp = 8, .max_pp = 8, .max_sp = 8};
  int default_zero = 2;  // of data parallelism that is not ZeRO-3
};

struct GalvatronPlan {
  std::vector<Strategy> layers;
  std::vector<int64_t> partition;
  Strategy embed;
  int64_t micro_batches = 1;
  double seconds = 0;            // of a step
  std::vector<double> stage_mb;  // layers rounded up to whole MB, embeddings and buffers included
};

/// Galvatron's search: the plan of the most samples a second, the first of equals, nothing where none fits. A stage's
/// layers are chosen by times with gradient sync and transition costs; the choice is judged by the pipeline formula.
/// Source: PKU-DAIR/Hetu-Galvatron, galvatron/core/search_engine at cea12ff.
std::optional<GalvatronPlan> search_galvatron(const ModelProfile& model, const HardwareProfile& hardware,
                                              const GalvatronQuery& query);

/// Memory of each stage as the search counts it: layers rounded up to whole MB, embeddings and the buffer of `cap`
/// ranks a sample included (cap 0: none).
std::vector<double> galvatron_stage_mb(const GalvatronCost& cost, const GalvatronPlan& plan, int64_t cap);

/// What a stage may hold: less a fifth above 20 GiB.
int64_t galvatron_budget_mb(double memory_gib);

}  // namespace unigrpo::planner
