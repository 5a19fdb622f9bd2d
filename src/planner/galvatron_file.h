#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "planner/plan_file.h"

namespace unigrpo::planner {

/// The plan in the form of Galvatron's own configuration files. `default_zero`: what `default_dp_type` says (0 ddp, 2
/// zero2). Throws BadInput naming the layer where the form cannot say it: ZeRO 1, data parallelism of another kind than
/// the default and ZeRO-3.
nlohmann::json galvatron_config(const Plan& plan, int default_zero);

/// The other way. `world`: where the file has no `world_size` (0: none given). Throws BadInput naming the key: cp or ep
/// above 1, consecutive 0, lists of different lengths, ranks that do not divide.
Plan plan_from_galvatron(const nlohmann::json& config, int64_t world, const std::string& where);

}  // namespace unigrpo::planner
