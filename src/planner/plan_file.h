#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "planner/flexible_sequence.h"
#include "planner/pipeline.h"
#include "planner/strategy.h"

namespace unigrpo::planner {

/// What a run does with its ranks: a "unigrpo-plan/1" file.
struct Plan {
  struct Embed {
    int64_t tp = 1, sp = 1;
    int zero = 0;
  };
  struct Predicted {
    double step_ms = 0, exposed_communication_ms = 0;
    std::vector<double> memory_mb = {};  // a stage
  };
  int64_t world = 1, global_batch = 1, micro_batches = 1;
  Schedule schedule = Schedule::one_f_one_b;
  std::vector<int64_t> partition = {};  // layers a stage
  Embed embed = {};
  std::vector<Strategy> layers = {};
  std::optional<SequenceCost> flexible_sp = {};  // by which a step's lengths are grouped
  struct Piece {
    std::string op;
    int64_t layers = 1, devices = 1;
  };
  std::vector<std::vector<Piece>> waves = {};  // of modules that share the ranks
  Predicted predicted = {};
  std::string profile_hash = {};
};

nlohmann::json plan_to_json(const Plan& plan);

/// "14 x 1-4*-2f-c, 14 x 1-4*-2 z1": runs of equal layers, ZeRO 1 and 2 named.
std::string layers_text(const Plan& plan);

/// Throws BadInput `where: key: ...` for an unknown key, a wrong type or range, and what does not go together: stages,
/// layers and world of partition and strategies, tp beside sp.
Plan plan_from_json(const nlohmann::json& object, const std::string& where);
Plan read_plan(const std::filesystem::path& file);

/// Throws BadInput `where: ...` where what the strategies, partition and batch say does not go together.
void check_plan(const Plan& plan, const std::string& where);

}  // namespace unigrpo::planner
