#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "planner/waves.h"

namespace unigrpo::planner {

/// Modules that share ranks: {"ranks", "meta_ops": [{"name", "layers", "times": {"ranks": ms a layer}, "deps":
/// [names], "batch"?, "multiple"?}]}. With a batch, times between the given ones are filled in (scalability.h).
struct ModuleGraph {
  int64_t ranks = 1;
  std::vector<MetaOp> ops;
  /// The worst time of those held out, and whose it is; nothing where no module has a batch and three times.
  struct HeldOut {
    std::string op;
    int64_t ranks = 0;
    double error = 0;
  };
  std::optional<HeldOut> worst = {};
};

/// Throws BadInput `where: ...` for an unknown key, a time that is not above 0, a name that stands twice or is needed
/// and not there.
ModuleGraph graph_from_json(const nlohmann::json& object, const std::string& where);

/// {"waves": [[{"op", "layers", "devices"}]], "milliseconds", "lower_bound_ms"}
nlohmann::json waves_to_json(const std::vector<MetaOp>& ops, const WaveSchedule& schedule);

}  // namespace unigrpo::planner
