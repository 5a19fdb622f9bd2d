#pragma once

#include <optional>
#include <string>
#include <vector>

#include "planner/cost_model.h"
#include "planner/plan_file.h"

namespace unigrpo::planner {

struct SearchQuery {
  Space space{.powers_of_two = false, .zero1 = true};
  Repairs repairs = {};
  int64_t global_batch = 1;
  int64_t micro_batches = 0;  // 0: every divisor of the batch
  bool uniform = false;       // one strategy for all layers
  double memory_gib = 0;      // of a rank; 0: as the cluster says
  int64_t top = 1;            // plans to keep, of different stages, micro-batches or splits
};

/// A stage of a judged plan, ms a step and MB.
struct StageView {
  double compute = 0, exchange = 0, exposed = 0, bubble = 0;  // exposed: weight and gradient traffic that nothing hides
  MemoryView memory;
};

struct JudgedPlan {
  Plan plan;
  std::vector<StageView> stages;
  double even_step_ms = 0;  // with stages of equal numbers of layers
  std::string reason;       // against the best: why it lost
};

/// What the search looked at, and what it could not use.
struct SearchResult {
  std::vector<JudgedPlan> plans;  // the best first
  int64_t tried = 0, cut_by_time = 0, cut_by_memory = 0;
  double least_mb = 0;        // that the least demanding plan needs, of its fullest stage
  int64_t binding_stage = 0;  // which stage that is
};

/// Plans of the least step time, the first of equals: pipeline, then split and its kind, then ZeRO, then recomputation;
/// a subtree whose memory cannot fit, or whose compute alone exceeds the best plan's step, is cut. Layers are chosen
/// stage by stage (choose.h), stages judged by events, and the worst stage's boundary moves while that improves. Throws
/// BadInput where no strategy divides the world.
SearchResult search_plans(const PlannedModel& model, const Cluster& cluster, const SearchQuery& query);

/// Every plan of one strategy for all layers at `query.micro_batches`, whatever memory it takes; in the order of their
/// strategies.
std::vector<JudgedPlan> uniform_plans(const PlannedModel& model, const Cluster& cluster, const SearchQuery& query);

/// Step, memory and shares of a plan under model U; fills `predicted`.
JudgedPlan judge_plan(const PlannedModel& model, const Cluster& cluster, const Repairs& repairs, const Plan& plan);

}  // namespace unigrpo::planner
