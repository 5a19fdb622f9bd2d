// From the JSON of a case to the functions that `plan` uses, and back.
#include <map>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "planner/choose.h"
#include "planner/cluster.h"
#include "planner/decision_tree.h"
#include "planner/flexible_sequence.h"
#include "planner/galvatron_file.h"
#include "planner/graph_file.h"
#include "planner/partition.h"
#include "planner/pipeline.h"
#include "planner/placement.h"
#include "planner/search_galvatron.h"
#include "planner/selftest.h"
#include "planner/strategy_json.h"
#include "planner/waves.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

template <typename E>
E spelled(const json& value) {
  const auto found = enum_value<E>(value.get<std::string>());
  if (!found) throw BadInput("{} is none of {}", value.dump(), enum_choices<E>());
  return *found;
}

/// Galvatron's word for 1F1B stands beside ours.
Schedule schedule_of(const json& value) {
  return value == "pipedream_flush" ? Schedule::one_f_one_b : spelled<Schedule>(value);
}

// ---- choice, groups, tree, partition ----

json solve_choose(const json& in) {
  ChooseProblem problem{.layers = in.at("layers"),
                        .memory = in.at("memory"),
                        .time = in.at("time"),
                        .transition = {in.at("transition").get<std::vector<std::vector<double>>>()},
                        .budget = in.at("budget")};
  const auto choice = choose_strategies(problem);
  if (!choice) return {{"feasible", false}};
  return {{"feasible", true}, {"choice", choice->strategies}, {"seconds", choice->cost}};
}

json solve_groups(const json& in) {
  const Strategy strategy{.pp = in.at("pp"), .tp = in.at("tp"), .sp = in.at("sp"), .dp = in.at("dp")};
  const RankGroups groups = rank_groups(strategy);
  return {{"tp", groups.tp}, {"sp", groups.sp}, {"dp", groups.dp}, {"shard", groups.shard}, {"pp", groups.pp}};
}

json solve_tree(const json& in) {
  const std::vector<TreeLeaf> leaves = decision_tree({.ranks = in.at("ranks"),
                                                      .max_pp = in.at("max_pp"),
                                                      .max_tp = in.at("max_tp"),
                                                      .prune = in.at("prune"),
                                                      .recompute = in.at("recompute")});
  json list = json::array(), by_pp = json::object();
  for (const TreeLeaf& leaf : leaves) {
    json levels = json::array();
    for (const auto& level : leaf.levels) {
      levels.push_back({{"kind", std::string(enum_name(level.kind))}, {"degree", level.degree}});
    }
    list.push_back({{"pp", leaf.pp}, {"levels", std::move(levels)}, {"recompute", leaf.recompute}});
    const std::string pp = std::to_string(leaf.pp);
    by_pp[pp] = by_pp.value(pp, 0) + 1;
  }
  return {{"count", leaves.size()}, {"by_pp", by_pp}, {"leaves", list}};
}

PartitionProblem::Layer partition_layer(const json& in) {
  return {.forward_ms = in.at("forward_ms"),
          .backward_ms = in.at("backward_ms"),
          .sync_ms = in.value("sync_ms", 0.0),
          .weights_mb = in.at("weights_mb"),
          .activation_mb = in.at("activation_mb")};
}

json solve_partition(const json& in) {
  PartitionProblem problem;
  for (const json& layer : in.at("layers")) problem.layers.push_back(partition_layer(layer));
  problem.embed = partition_layer(in.at("embed"));
  problem.head = partition_layer(in.at("head"));
  problem.stages = in.at("stages");
  problem.micro_batches = in.at("micro_batches");
  problem.budget_mb = in.at("budget_mb");
  problem.p2p_ms = in.at("p2p_ms");
  problem.cost = spelled<PartitionCost>(in.at("cost"));
  const auto cut = best_partition(problem);
  if (!cut) return {{"feasible", false}, {"least_mb", least_partition_mb(problem)}};
  return {{"feasible", true}, {"boundaries", cut->boundaries}, {"step_ms", cut->step_ms}};
}

// ---- Galvatron ----

struct GalvatronCase {
  ModelProfile model;
  HardwareProfile hardware;
  GalvatronSetting setting;
};

GalvatronCase galvatron_case(const json& in, const json& profiles) {
  const auto name = in.at("profile").get<std::string>();
  if (!profiles.contains(name)) throw BadInput("profiles.json: '{}' is missing", name);
  const json& profile = profiles.at(name);
  GalvatronCase out;
  const json& model = in.at("model");
  for (const json& type : model.is_array() ? model : json::array({model})) {
    out.setting.types.push_back({.count = type.at("layers"), .hidden = type.at("hidden"), .seq = type.at("seq")});
  }
  const std::string where = "profiles.json: " + name + ": ";
  const auto part = [&](const char* key) { return NamedJson{profile.at(key), where + key}; };
  out.model = read_model_profile(part("computation"), part("memory"),
                                 {.types = out.setting.types,
                                  .time = spelled<ProfileMode>(in.at("time_mode")),
                                  .memory = spelled<ProfileMode>(in.at("memory_mode"))});
  out.hardware = read_hardware_profile(part("allreduce_bandwidth"), part("p2p_bandwidth"), part("overlap_coefficient"),
                                       part("sp_time"));
  out.setting.world = in.at("world");
  out.setting.half = in.at("precision") != "fp32";
  out.setting.schedule = schedule_of(in.at("pipeline"));
  out.setting.async_grad_reduce = in.at("async_grad_reduce");
  out.setting.global_batch = in.at("global_batch");
  out.setting.micro_batches = in.value("micro_batches", int64_t{0});
  return out;
}

json solve_galvatron_cost(const json& in, const json& profiles) {
  const GalvatronCase c = galvatron_case(in, profiles);
  const GalvatronCost cost(c.model, c.hardware, c.setting);
  const Strategy strategy = strategy_from_json(in.at("strategy"));
  return {{"layer_seconds", cost.layer_seconds(0, strategy, true)},
          {"layer_seconds_no_sync", cost.layer_seconds(0, strategy, false)},
          {"layer_states_mb", cost.layer_states_mb(0, strategy)},
          {"layer_activation_mb", cost.layer_activation_mb(0, strategy, in.at("stage"))},
          {"embed_seconds", cost.embed_seconds(strategy, true)},
          {"embed_seconds_no_sync", cost.embed_seconds(strategy, false)},
          {"embed_mb", cost.embed_mb(strategy)}};
}

std::vector<Strategy> strategies_from_json(const json& list) {
  std::vector<Strategy> out;
  for (const json& one : list) out.push_back(strategy_from_json(one));
  return out;
}

json solve_galvatron_pipeline(const json& in, const json& profiles) {
  const GalvatronCase c = galvatron_case(in, profiles);
  const GalvatronCost cost(c.model, c.hardware, c.setting);
  return {{"step_seconds", cost.step_seconds(strategies_from_json(in.at("layers")), in.at("partition"),
                                             strategy_from_json(in.at("embed")))}};
}

json solve_galvatron_search(const json& in, const json& profiles) {
  const GalvatronCase c = galvatron_case(in, profiles);
  GalvatronQuery query{.setting = c.setting, .memory_gib = in.at("memory_gib")};
  query.default_zero = in.at("default_dp") == "ddp" ? 0 : 2;
  const auto plan = search_galvatron(c.model, c.hardware, query);
  if (!plan) return {{"feasible", false}};
  json layers = json::array(), names = json::array();
  for (const Strategy& s : plan->layers) {
    layers.push_back(strategy_to_json(s));
    names.push_back(short_name(s));
  }
  return {{"feasible", true},
          {"throughput", static_cast<double>(c.setting.global_batch) / plan->seconds},
          {"layers", std::move(layers)},
          {"partition", plan->partition},
          {"embed", strategy_to_json(plan->embed)},
          {"micro_batches", plan->micro_batches},
          {"names", std::move(names)}};
}

json solve_galvatron_config(const json& in) {
  Plan plan;
  plan.world = in.at("world");
  plan.global_batch = in.at("global_batch");
  plan.micro_batches = in.at("micro_batches");
  plan.schedule = schedule_of(in.at("schedule"));
  plan.partition = in.at("partition").get<std::vector<int64_t>>();
  plan.layers = strategies_from_json(in.at("layers"));
  const json& embed = in.at("embed");
  plan.embed = {.tp = embed.at("tp"), .sp = embed.at("sp"), .zero = embed.at("zero")};
  return galvatron_config(plan, in.at("default_dp") == "ddp" ? 0 : 2);
}

// ---- flexible sequence parallelism ----

SequenceCost sequence_cost(const json& in) {
  SequenceCost cost{.alpha1 = in.at("alpha1"),
                    .alpha2 = in.at("alpha2"),
                    .beta = in.at("beta"),
                    .comm_ms_per_token = {},
                    .tokens_per_rank = in.at("tokens_per_rank")};
  for (const auto& [degree, ms] : in.at("comm_ms_per_token").items()) {
    cost.comm_ms_per_token[std::stoll(degree)] = ms.get<double>();
  }
  return cost;
}

std::vector<Sequence> sequences_of(const json& in) {
  std::vector<Sequence> out = full_attention(in.at("lengths"));
  if (in.contains("pairs")) {
    for (size_t j = 0; j < out.size(); ++j) out[j].pairs = in.at("pairs").at(j);
  }
  return out;
}

json groups_json(const Assignment& assignment) {
  json out = json::array();
  for (const SequenceGroup& group : assignment.groups) {
    out.push_back({{"degree", group.degree}, {"sequences", group.sequences}});
  }
  return out;
}

json solve_assign(const json& in) {
  const auto assignment = assign_sequences(sequence_cost(in), sequences_of(in), in.at("ranks"));
  if (!assignment) return {{"feasible", false}};
  return {{"feasible", true},
          {"groups", groups_json(*assignment)},
          {"milliseconds", assignment->milliseconds},
          {"lower_bound_ms", assignment->lower_bound}};
}

json solve_step(const json& in) {
  const auto step = assign_step(sequence_cost(in), sequences_of(in), in.at("ranks"));
  if (!step) return {{"feasible", false}};
  json parts = json::array();
  double ms = 0;
  for (const Assignment& part : *step) {
    parts.push_back(groups_json(part));
    ms += part.milliseconds;
  }
  return {{"feasible", true}, {"micro_batches", std::move(parts)}, {"milliseconds", ms}};
}

json solve_lengths(const json& in) {
  const LengthSet set = make_lengths({.ppm = in.at("quantiles").at("ppm"),
                                      .length = in.at("quantiles").at("length"),
                                      .count = in.at("count"),
                                      .multiple = in.at("multiple"),
                                      .limit = in.at("limit"),
                                      .at = in.at("at")});
  return {{"lengths", set.lengths}, {"dropped", set.dropped}, {"total", set.total}, {"at_most", set.at_most}};
}

// ---- waves ----

std::vector<MetaOp> meta_ops(const json& in) {
  std::vector<MetaOp> out;
  std::map<std::string, size_t> index;
  for (const json& op : in.at("meta_ops")) index.emplace(op.at("name").get<std::string>(), index.size());
  for (const json& op : in.at("meta_ops")) {
    MetaOp& meta = out.emplace_back(MetaOp{.name = op.at("name"), .layers = op.at("layers"), .ms = {}, .deps = {}});
    for (const auto& [ranks, ms] : op.at("times").items()) meta.ms[std::stoll(ranks)] = ms.get<double>();
    for (const json& dep : op.value("deps", json::array())) meta.deps.push_back(index.at(dep.get<std::string>()));
  }
  return out;
}

json solve_schedule(const json& in) {
  const std::vector<MetaOp> ops = meta_ops(in);
  return waves_to_json(ops, schedule_waves(ops, in.at("devices")));
}

json solve_continuous(const json& in) {
  const std::vector<MetaOp> ops = meta_ops(in);
  const Continuous optimum = continuous_optimum(ops, in.at("devices"));
  json devices = json::object();
  for (size_t m = 0; m < ops.size(); ++m) devices[ops[m].name] = optimum.ranks[m];
  return {{"ideal_ms", optimum.ideal_ms}, {"devices", std::move(devices)}};
}

json solve_contract(const json& in) {
  std::vector<GraphNode> nodes;
  for (const json& node : in.at("nodes")) {
    nodes.push_back({.name = node.at("name"), .signature = node.at("signature"), .deps = node.at("deps")});
  }
  json out = json::array();
  for (const Chain& chain : contract(nodes)) {
    out.push_back({{"members", chain.members}, {"layers", chain.members.size()}, {"level", chain.level}});
  }
  return {{"meta_ops", std::move(out)}};
}

json solve_place(const json& in) {
  PlacementProblem problem{.ranks = in.at("ranks"),
                           .island = in.at("island"),
                           .intra_ms_per_mb = in.at("intra_ms_per_mb"),
                           .inter_ms_per_mb = in.at("inter_ms_per_mb"),
                           .memory_mb = in.at("memory_mb"),
                           .weight_mb = {},
                           .pieces = {},
                           .waves = {}};
  std::map<std::string, size_t> op_index, piece_index;
  for (const json& op : in.at("meta_ops")) {
    op_index.emplace(op.at("name").get<std::string>(), problem.weight_mb.size());
    problem.weight_mb.push_back(op.at("weight_mb"));
  }
  for (const json& wave : in.at("waves")) {
    auto& indices = problem.waves.emplace_back();
    for (const json& piece : wave) {
      PlacementProblem::Piece& out = problem.pieces.emplace_back();
      out.name = piece.at("piece");
      out.op = op_index.at(piece.at("op").get<std::string>());
      out.ranks = piece.at("ranks");
      for (const json& flow : piece.at("inputs")) {
        out.inputs.push_back({piece_index.at(flow.at("from").get<std::string>()), flow.at("mb")});
      }
      indices.push_back(problem.pieces.size() - 1);
      piece_index.emplace(out.name, indices.back());
    }
  }
  const auto placement = place_waves(problem);
  if (!placement) return {{"feasible", false}, {"least_mb", least_placement_mb(problem)}};
  json start = json::object();
  for (size_t i = 0; i < problem.pieces.size(); ++i) start[problem.pieces[i].name] = placement->start[i];
  return {{"feasible", true}, {"start", std::move(start)}, {"cost_ms", placement->cost_ms}};
}

// ---- simulation ----

json solve_pipeline(const json& in) {
  const PipelineRun run = play_pipeline({.schedule = spelled<Schedule>(in.at("schedule")),
                                         .micro_batches = in.at("micro_batches"),
                                         .forward = in.at("forward"),
                                         .backward = in.at("backward"),
                                         .p2p = in.at("p2p")});
  return {{"makespan", run.makespan}, {"peak_in_flight", run.peak_in_flight}, {"idle", run.idle}};
}

json solve_collective(const json& in) {
  const json& c = in.at("cluster");
  const Cluster cluster{.nodes = c.at("nodes"),
                        .gpus_per_node = c.at("gpus_per_node"),
                        .memory_gib = c.value("memory_gib", 80.0),
                        .intra_gbps = c.at("intra_gbps"),
                        .node_gbps = c.at("node_gbps"),
                        .intra_latency_us = c.at("intra_latency_us"),
                        .inter_latency_us = c.at("inter_latency_us")};
  return {{"milliseconds", collective_ms(cluster, spelled<Collective>(in.at("kind")), {in.at("ranks"), in.at("stride")},
                                         in.at("megabytes"))}};
}

}  // namespace

json solve_case(const std::string& op, const json& input, const json& profiles) {
  using Solve = json (*)(const json&);
  static const std::map<std::string, Solve> kOps = {
      {"plan.choose", solve_choose},
      {"plan.groups", solve_groups},
      {"plan.galvatron_config", solve_galvatron_config},
      {"plan.tree", solve_tree},
      {"plan.partition", solve_partition},
      {"flex.assign", solve_assign},
      {"flex.step", solve_step},
      {"flex.buckets",
       [](const json& in) -> json { return {{"padding_tokens", least_padding(in.at("lengths"), in.at("buckets"))}}; }},
      {"flex.blast",
       [](const json& in) -> json {
         return {{"largest_tokens", split_tokens(in.at("lengths"), in.at("micro_batches")).largest_tokens}};
       }},
      {"flex.lengths", solve_lengths},
      {"waves.schedule", solve_schedule},
      {"waves.continuous", solve_continuous},
      {"waves.contract", solve_contract},
      {"waves.place", solve_place},
      {"sim.pipeline", solve_pipeline},
      {"sim.collective", solve_collective},
  };
  if (op == "galvatron.cost") return solve_galvatron_cost(input, profiles);
  if (op == "galvatron.pipeline") return solve_galvatron_pipeline(input, profiles);
  if (op == "galvatron.search") return solve_galvatron_search(input, profiles);
  const auto found = kOps.find(op);
  if (found == kOps.end()) throw BadInput("no such op {}", in_quotes(op));
  return found->second(input);
}

}  // namespace unigrpo::planner
