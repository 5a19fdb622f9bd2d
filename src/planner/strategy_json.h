#pragma once

#include <nlohmann/json_fwd.hpp>

#include "planner/strategy.h"

namespace unigrpo::planner {

/// {"pp", "tp", "sp", "dp", "zero", "recompute"}. Reading throws nlohmann's exceptions where a key is missing or of
/// another type.
nlohmann::json strategy_to_json(const Strategy& strategy);
Strategy strategy_from_json(const nlohmann::json& object);

}  // namespace unigrpo::planner
