#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace unigrpo::parallel {

/// Where and how a layer runs.
struct LayerPlan {
  std::string shard = "none";  // what ranks hold of its weights and optimizer state: parallel.shard
  int64_t tp = 1, sp = 1;
  bool recompute = false;
  int64_t stage = 0;  // of a pipeline
};

/// {"layers": [{"shard", "tp", "sp", "recompute", "stage"}, ...]}, first layer first; what a layer leaves out is as in
/// `otherwise`. Throws BadInput naming file, layer and field: an unknown field, a wrong type or range, a stage other
/// than 0, another shard level than the recipe's, tp x sp that is not the same for all.
std::vector<LayerPlan> read_layer_plan(const std::filesystem::path& file, const LayerPlan& otherwise);

}  // namespace unigrpo::parallel
