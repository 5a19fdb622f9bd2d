#include "planner/plan_file.h"

#include <nlohmann/json.hpp>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "io/json.h"
#include "planner/fields.h"
#include "planner/strategy_json.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

constexpr int64_t kMaxLayers = 10'000;
constexpr size_t kMaxWaves = 100'000;

Strategy read_layer(const Fields& in) {
  return {.pp = in.integer("pp", 1),
          .tp = in.integer("tp", 1),
          .sp = in.integer("sp", 1),
          .dp = in.integer("dp", 1),
          .zero = static_cast<int>(in.integer("zero", 0, 3)),
          .recompute = in.boolean("recompute")};
}

SequenceCost read_flexible(const Fields& in) {
  in.only({"alpha1", "alpha2", "beta", "comm_ms_per_token", "tokens_per_rank"});
  SequenceCost out{.alpha1 = in.number("alpha1"),
                   .alpha2 = in.number("alpha2"),
                   .beta = in.number("beta"),
                   .comm_ms_per_token = {},
                   .tokens_per_rank = in.integer("tokens_per_rank", 1, int64_t{1} << 40)};
  const Fields prices(in.at("comm_ms_per_token"), in.where() + ": comm_ms_per_token");
  for (const auto& [key, value] : in.at("comm_ms_per_token").items()) {
    out.comm_ms_per_token[whole_number(key, prices.where())] = prices.number(key.c_str());
  }
  if (out.comm_ms_per_token.empty()) throw BadInput("{}: must hold at least one degree", prices.where());
  return out;
}

json flexible_to_json(const SequenceCost& cost) {
  json prices = json::object();
  for (const auto& [degree, ms] : cost.comm_ms_per_token) prices[std::to_string(degree)] = ms;
  return {{"alpha1", cost.alpha1},
          {"alpha2", cost.alpha2},
          {"beta", cost.beta},
          {"comm_ms_per_token", std::move(prices)},
          {"tokens_per_rank", cost.tokens_per_rank}};
}

std::vector<std::vector<Plan::Piece>> read_waves(const json& list, int64_t world, const std::string& where) {
  std::vector<std::vector<Plan::Piece>> out;
  if (!list.is_array() || list.size() > kMaxWaves) throw BadInput("{}: must be a list of waves", where);
  for (const json& wave : list) {
    const std::string place = fmt::format("{}[{}]", where, out.size());
    if (!wave.is_array() || wave.empty()) throw BadInput("{}: must be a list of pieces", place);
    auto& pieces = out.emplace_back();
    int64_t devices = 0;
    for (const json& one : wave) {
      const Fields in(one, fmt::format("{}[{}]", place, pieces.size()));
      in.only({"op", "layers", "devices"});
      pieces.push_back({in.text("op"), in.integer("layers", 1), in.integer("devices", 1, world)});
      devices += pieces.back().devices;
    }
    if (devices > world) throw BadInput("{}: {} devices where the world is {}", place, devices, world);
  }
  return out;
}

json waves_json(const std::vector<std::vector<Plan::Piece>>& waves) {
  json out = json::array();
  for (const auto& wave : waves) {
    json& pieces = out.emplace_back(json::array());
    for (const Plan::Piece& piece : wave) {
      pieces.push_back({{"op", piece.op}, {"layers", piece.layers}, {"devices", piece.devices}});
    }
  }
  return out;
}

}  // namespace

json strategy_to_json(const Strategy& s) {
  return {{"pp", s.pp}, {"tp", s.tp}, {"sp", s.sp}, {"dp", s.dp}, {"zero", s.zero}, {"recompute", s.recompute}};
}

Strategy strategy_from_json(const json& object) {
  return {.pp = object.at("pp"),
          .tp = object.at("tp"),
          .sp = object.at("sp"),
          .dp = object.at("dp"),
          .zero = object.at("zero"),
          .recompute = object.at("recompute")};
}

json plan_to_json(const Plan& plan) {
  json layers = json::array();
  for (size_t i = 0; i < plan.layers.size();) {  // equal neighbours once, with their number
    size_t end = i + 1;
    while (end < plan.layers.size() && plan.layers[end] == plan.layers[i]) ++end;
    json layer = strategy_to_json(plan.layers[i]);
    if (end - i > 1) layer["repeat"] = end - i;
    layers.push_back(std::move(layer));
    i = end;
  }
  json out = {{"format", "unigrpo-plan/1"},
              {"world", plan.world},
              {"global_batch", plan.global_batch},
              {"micro_batches", plan.micro_batches},
              {"schedule", std::string(enum_name(plan.schedule))},
              {"partition", plan.partition},
              {"embed", {{"tp", plan.embed.tp}, {"sp", plan.embed.sp}, {"zero", plan.embed.zero}}},
              {"layers", std::move(layers)},
              {"predicted",
               {{"step_ms", plan.predicted.step_ms},
                {"memory_mb", plan.predicted.memory_mb},
                {"exposed_communication_ms", plan.predicted.exposed_communication_ms}}},
              {"profile_hash", plan.profile_hash}};
  if (plan.flexible_sp) out["flexible_sp"] = flexible_to_json(*plan.flexible_sp);
  if (!plan.waves.empty()) out["waves"] = waves_json(plan.waves);
  return out;
}

std::string layers_text(const Plan& plan) {
  std::string out;
  for (size_t i = 0; i < plan.layers.size();) {
    size_t end = i + 1;
    while (end < plan.layers.size() && plan.layers[end] == plan.layers[i]) ++end;
    const Strategy& s = plan.layers[i];
    const bool partly = s.zero == 1 || s.zero == 2;  // which the short form does not say
    out += fmt::format("{}{} x {}{}", out.empty() ? "" : ", ", end - i, short_name(s),
                       partly ? fmt::format(" z{}", s.zero) : "");
    i = end;
  }
  return out;
}

Plan plan_from_json(const json& object, const std::string& where) {
  const Fields in(object, where);
  in.only({"format", "world", "global_batch", "micro_batches", "schedule", "partition", "embed", "layers",
           "flexible_sp", "waves", "predicted", "profile_hash"});
  if (in.text("format") != "unigrpo-plan/1") {
    throw BadInput("{}: format: must be \"unigrpo-plan/1\", got {}", where, in_quotes(in.text("format")));
  }
  Plan plan;
  plan.world = in.integer("world", 1);
  plan.global_batch = in.integer("global_batch", 1);
  plan.micro_batches = in.integer("micro_batches", 1);
  const auto schedule = enum_value<Schedule>(in.text("schedule"));
  if (!schedule) {
    throw BadInput("{}: schedule: must be {}, got {}", where, enum_choices<Schedule>(), in_quotes(in.text("schedule")));
  }
  plan.schedule = *schedule;
  plan.partition = in.integers("partition", 1, kMaxLayers);
  const Fields embed(in.at("embed"), where + ": embed");
  embed.only({"tp", "sp", "zero"});
  plan.embed = {embed.integer("tp", 1), embed.integer("sp", 1), static_cast<int>(embed.integer("zero", 0, 3))};
  if (!in.at("layers").is_array()) throw BadInput("{}: layers: must be a list", where);
  for (const json& one : in.at("layers")) {
    const Fields layer(one, fmt::format("{}: layers[{}]", where, plan.layers.size()));
    layer.only({"pp", "tp", "sp", "dp", "zero", "recompute", "repeat"});
    const int64_t repeat = layer.has("repeat") ? layer.integer("repeat", 1, kMaxLayers) : 1;
    if (std::ssize(plan.layers) + repeat > kMaxLayers) {
      throw BadInput("{}: layers: more than {} of them", where, kMaxLayers);
    }
    plan.layers.insert(plan.layers.end(), repeat, read_layer(layer));
  }
  if (in.has("flexible_sp")) plan.flexible_sp = read_flexible({in.at("flexible_sp"), where + ": flexible_sp"});
  if (in.has("waves")) plan.waves = read_waves(in.at("waves"), plan.world, where + ": waves");
  if (in.has("predicted")) {
    const Fields predicted(in.at("predicted"), where + ": predicted");
    predicted.only({"step_ms", "memory_mb", "exposed_communication_ms"});
    plan.predicted = {predicted.number("step_ms"), predicted.number("exposed_communication_ms"),
                      predicted.numbers("memory_mb")};
  }
  if (in.has("profile_hash")) plan.profile_hash = in.text("profile_hash");
  check_plan(plan, where);
  return plan;
}

Plan read_plan(const std::filesystem::path& file) {
  return plan_from_json(io::read_json_file(file, {}, size_t{16} << 20), file.string());
}

void check_plan(const Plan& plan, const std::string& where) {
  const auto stages = std::ssize(plan.partition);
  const int64_t cut = std::accumulate(plan.partition.begin(), plan.partition.end(), int64_t{0});
  if (plan.layers.empty()) throw BadInput("{}: layers: none", where);
  if (cut != std::ssize(plan.layers)) {
    throw BadInput("{}: partition: holds {} layers, 'layers' {}", where, cut, plan.layers.size());
  }
  if (plan.global_batch % plan.micro_batches != 0) {
    throw BadInput("{}: micro_batches: {} do not divide the batch of {}", where, plan.micro_batches, plan.global_batch);
  }
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    const Strategy& s = plan.layers[i];
    if (s.tp > 1 && s.sp > 1) throw BadInput("{}: layers[{}]: tp and sp are both above 1", where, i);
    if (s.pp != stages)
      throw BadInput("{}: layers[{}]: pp: {} where the partition has {} stages", where, i, s.pp, stages);
    // Factors are at most 2^24: each product is compared before the next factor comes in.
    int64_t ranks = 1;
    for (const int64_t degree : {s.pp, s.tp, s.sp, s.dp}) ranks = ranks > plan.world ? ranks : ranks * degree;
    if (ranks != plan.world)
      throw BadInput("{}: layers[{}]: pp * tp * sp * dp is not the world of {}", where, i, plan.world);
  }
  if (plan.embed.tp > 1 && plan.embed.sp > 1) throw BadInput("{}: embed: tp and sp are both above 1", where);
  const int64_t ranks = plan.world / stages;
  if (plan.world % stages != 0 || ranks % (plan.embed.tp * plan.embed.sp) != 0) {
    throw BadInput("{}: embed: {} ranks do not divide the {} of a stage", where, plan.embed.tp * plan.embed.sp, ranks);
  }
}

}  // namespace unigrpo::planner
