#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "parallel/pipeline_schedule.h"

namespace unigrpo::parallel {

/// Where and how a layer runs.
struct LayerPlan {
  std::string shard = "none";  // what ranks hold of its weights and optimizer state: parallel.shard
  int64_t tp = 1, sp = 1;
  bool recompute = false;
  int64_t stage = 0;  // of a pipeline
};

struct LayerPlans {
  std::vector<LayerPlan> layers;  // of the model, first layer first
  Schedule schedule = Schedule::one_f_one_b;
};

/// How many stages the layers have; 1 where there are no plans.
int64_t count_stages(const std::vector<LayerPlan>& layers);

/// {"layers": [{"shard", "tp", "sp", "recompute", "stage"}, ...], "schedule": "1f1b"}, first layer first; what a layer
/// leaves out is as in `otherwise`, its stage 0, and the schedule may be left out. Throws BadInput naming file, layer
/// and field: an unknown field, a wrong type or range, stages that do not count up from 0 layer by layer, another shard
/// level than the recipe's, tp x sp that is not the same for all.
LayerPlans read_layer_plan(const std::filesystem::path& file, const LayerPlan& otherwise);

}  // namespace unigrpo::parallel
