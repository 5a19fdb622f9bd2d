#pragma once

#include <filesystem>

#include "parallel/layer_plan.h"

namespace unigrpo::train {

/// What a recipe's parallel.plan names: layers (parallel/layer_plan.h), or what `unigrpo plan --json` wrote, a
/// "unigrpo-plan/1" file; ZeRO 0 to 3 of that are the shard levels. Throws BadInput naming file and key, also where a
/// plan has waves or groups by lengths.
parallel::LayerPlans read_layer_plans(const std::filesystem::path& file, const parallel::LayerPlan& otherwise);

}  // namespace unigrpo::train
