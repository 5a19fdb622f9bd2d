#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/config.h"
#include "parallel/pipeline_schedule.h"

namespace unigrpo::parallel {

/// Where and how a layer runs.
struct LayerPlan {
  Shard shard = Shard::none;  // what ranks share of its weights and optimizer state
  int64_t tp = 1, sp = 1;
  bool recompute = false;
  int64_t stage = 0;  // of a pipeline

  int64_t ranks() const { return tp * sp; }  // that work on the same samples in it
};

struct LayerPlans {
  std::vector<LayerPlan> layers;  // of the model, first layer first
  Schedule schedule = Schedule::one_f_one_b;
  Shard rest = Shard::none;  // of what belongs to no layer
  int64_t ranks = 0;         // that it was made for; 0: any
};

/// How many stages the layers have; 1 where there are no plans.
int64_t count_stages(const std::vector<LayerPlan>& layers);
/// The first of the layers that most ranks share, tp x sp. There are layers.
const LayerPlan& most_shared(const std::vector<LayerPlan>& layers);

/// Throws BadInput naming `file` and the first layer whose tp x sp does not divide the largest.
void check_products(const std::vector<LayerPlan>& layers, const std::string& file);

/// {"layers": [{"shard", "tp", "sp", "recompute", "stage"}, ...], "schedule": "1f1b"}, first layer first; what a layer
/// leaves out is as in `otherwise`, its stage 0, and the schedule may be left out. Throws BadInput naming file, layer
/// and field: an unknown field, a wrong type or range, stages that do not count up from 0 layer by layer, an unknown
/// shard level, a tp x sp that does not divide the largest.
LayerPlans read_layer_plan(const std::filesystem::path& file, const LayerPlan& otherwise);

}  // namespace unigrpo::parallel
