#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "planner/waves.h"

namespace unigrpo::planner {

/// Modules that share ranks: {"ranks", "meta_ops": [{"name", "layers", "times": {"ranks": ms a layer}, "deps":
/// [names]}]}.
struct ModuleGraph {
  int64_t ranks = 1;
  std::vector<MetaOp> ops;
};

/// Throws BadInput `where: ...` for an unknown key, a time that is not above 0, a name that stands twice or is needed
/// and not there.
ModuleGraph graph_from_json(const nlohmann::json& object, const std::string& where);

/// {"waves": [[{"op", "layers", "devices"}]], "milliseconds", "lower_bound_ms"}
nlohmann::json waves_to_json(const std::vector<MetaOp>& ops, const WaveSchedule& schedule);

}  // namespace unigrpo::planner
