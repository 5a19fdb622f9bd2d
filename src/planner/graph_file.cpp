#include "planner/graph_file.h"

#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "planner/fields.h"
#include "planner/scalability.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

constexpr size_t kMaxOps = 10'000;

std::map<int64_t, double> read_times(const json& object, const std::string& where) {
  const Fields in(object, where);
  std::map<int64_t, double> out;
  for (const auto& [key, value] : object.items()) {
    const int64_t ranks = whole_number(key, where);
    const double ms = in.number(key.c_str());
    if (ms == 0) throw BadInput("{}: {}: must be above 0", where, key);
    out[ranks] = ms;
  }
  if (out.empty()) throw BadInput("{}: must hold at least one time", where);
  return out;
}

/// Fills in what lies between profiled times.
void fill_times(const Fields& in, int64_t ranks, MetaOp& op, std::optional<ModuleGraph::HeldOut>& worst) {
  const int64_t multiple = in.has("multiple") ? in.integer("multiple", 1) : 1;
  if (!in.has("batch")) return;
  const int64_t batch = in.integer("batch", 1);
  const auto held_out = Scalability(op.ms).worst_held_out();
  if (held_out && (!worst || held_out->error > worst->error)) worst = {op.name, held_out->ranks, held_out->error};
  op.ms = all_times(op.ms, batch, multiple, ranks);
}

}  // namespace

ModuleGraph graph_from_json(const json& object, const std::string& where) {
  const Fields in(object, where);
  in.only({"ranks", "meta_ops"});
  ModuleGraph out{.ranks = in.integer("ranks", 1, 65'536), .ops = {}};
  const json& list = in.at("meta_ops");
  if (!list.is_array() || list.empty() || list.size() > kMaxOps) {
    throw BadInput("{}: meta_ops: must be a list of 1 to {} modules", where, kMaxOps);
  }
  std::map<std::string, size_t> index;
  for (const json& one : list) {
    const Fields op(one, fmt::format("{}: meta_ops[{}]", where, out.ops.size()));
    op.only({"name", "layers", "times", "deps", "batch", "multiple"});
    const std::string name = op.text("name");
    if (!index.emplace(name, out.ops.size()).second)
      throw BadInput("{}: name: {} stands twice", op.where(), in_quotes(name));
    out.ops.push_back({.name = name,
                       .layers = op.integer("layers", 1, 100'000),
                       .ms = read_times(op.at("times"), op.where() + ": times"),
                       .deps = {}});
    fill_times(op, out.ranks, out.ops.back(), out.worst);
  }
  for (size_t m = 0; m < out.ops.size(); ++m) {
    if (!list[m].contains("deps")) continue;
    const std::string place = fmt::format("{}: meta_ops[{}]: deps", where, m);
    if (!list[m]["deps"].is_array()) throw BadInput("{}: must be a list of names", place);
    for (const json& dep : list[m]["deps"]) {
      const auto found = dep.is_string() ? index.find(dep.get<std::string>()) : index.end();
      if (found == index.end()) throw BadInput("{}: {} is no module", place, in_quotes(dep.dump()));
      out.ops[m].deps.push_back(found->second);
    }
  }
  return out;
}

json waves_to_json(const std::vector<MetaOp>& ops, const WaveSchedule& schedule) {
  json waves = json::array();
  for (const Wave& wave : schedule.waves) {
    json& pieces = waves.emplace_back(json::array());
    for (const WavePiece& piece : wave) {
      pieces.push_back({{"op", ops[piece.op].name}, {"layers", piece.layers}, {"devices", piece.ranks}});
    }
  }
  return {{"waves", std::move(waves)},
          {"milliseconds", schedule.milliseconds},
          {"lower_bound_ms", schedule.lower_bound},
          {"level_ideal_ms", schedule.level_ideal}};
}

}  // namespace unigrpo::planner
