#include "train/layer_plans.h"

#include <nlohmann/json.hpp>

#include "base/error.h"
#include "io/json.h"
#include "planner/plan_file.h"

namespace unigrpo::train {
namespace {

using parallel::Shard;

/// Of ZeRO's level.
Shard shard_of(int zero) { return static_cast<Shard>(zero); }

parallel::LayerPlans layers_of(const planner::Plan& plan, const std::string& file) {
  if (!plan.waves.empty()) throw BadInput("{}: waves: expected a plan of one model's layers", file);
  if (plan.flexible_sp) throw BadInput("{}: flexible_sp: expected none; parallel.flexible_sp = true asks for it", file);
  parallel::LayerPlans plans{.layers = {},
                             .schedule = plan.schedule == planner::Schedule::gpipe ? parallel::Schedule::gpipe
                                                                                   : parallel::Schedule::one_f_one_b,
                             .rest = shard_of(plan.embed.zero),
                             .ranks = plan.world};
  size_t layer = 0;
  for (size_t stage = 0; stage < plan.partition.size(); ++stage) {
    for (int64_t i = 0; i < plan.partition[stage]; ++i, ++layer) {
      const planner::Strategy& strategy = plan.layers[layer];
      plans.layers.push_back({.shard = shard_of(strategy.zero),
                              .tp = strategy.tp,
                              .sp = strategy.sp,
                              .recompute = strategy.recompute,
                              .stage = static_cast<int64_t>(stage)});
    }
  }
  parallel::check_products(plans.layers, file);
  return plans;
}

}  // namespace

parallel::LayerPlans read_layer_plans(const std::filesystem::path& file, const parallel::LayerPlan& otherwise) {
  const nlohmann::json object = io::read_json_file(file);
  if (!object.is_object() || !object.contains("format")) return parallel::read_layer_plan(file, otherwise);
  return layers_of(planner::plan_from_json(object, file.string()), file.string());
}

}  // namespace unigrpo::train
