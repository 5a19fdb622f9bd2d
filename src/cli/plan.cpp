#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "cli/cluster_file.h"
#include "cli/commands.h"
#include "cli/recipe_workload.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "planner/galvatron_file.h"
#include "planner/graph_file.h"
#include "planner/model_shape.h"
#include "planner/phases.h"
#include "planner/plan_page.h"
#include "planner/profile_folder.h"
#include "planner/scalability.h"
#include "planner/search.h"
#include "planner/search_galvatron.h"
#include "planner/simulate.h"

namespace unigrpo::cli {
namespace {

using namespace planner;
using nlohmann::json;

struct Options {
  std::string graph, recipe, profile, cluster, json_file, galvatron, trace, html, import_file, cost = "unified", batch;
  std::vector<std::string> overrides, space;
  int64_t top = 3, world = 0, micro_batches = 0, max_tp = 0, max_pp = 0, max_sp = 0, seq = 0, prompt_tokens = 256;
  double tflops = 400, memory_gib = 0, memory_gbps = 3000, reward_ms = 0;
  bool simulate = false, uniform = false;
};

/// What a recipe and the options come to.
struct Inputs {
  Workload workload;
  ModelShape shape;
  PlannedModel model;
  Cluster cluster;
  std::string hash;
};

Space space_of(const Options& options) {
  Space space{.max_tp = options.max_tp,
              .max_pp = options.max_pp,
              .max_sp = options.max_sp,
              .powers_of_two = false,
              .zero1 = true};
  if (options.space.empty()) return space;
  const auto has = [&](const char* word) { return std::ranges::find(options.space, word) != options.space.end(); };
  space.dp = has("dp");
  space.sdp = has("sdp");
  space.tp = has("tp");
  space.sp = has("sp");
  space.pp = has("pp");
  space.recompute = has("ckpt");
  return space;
}

/// "64", or "32:128:32" as all of 32, 64, 96, 128.
std::vector<int64_t> batches_of(const std::string& text, int64_t fallback) {
  if (text.empty()) return {fallback};
  std::vector<int64_t> parts;
  for (size_t at = 0; at <= text.size();) {
    const size_t colon = std::min(text.find(':', at), text.size());
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data() + at, text.data() + colon, value);
    if (error != std::errc() || end != text.data() + colon || value < 1 || value > 1'000'000) {
      throw BadInput("--batch: must be N or MIN:MAX:STEP, got {}", in_quotes(text));
    }
    parts.push_back(value);
    at = colon + 1;
  }
  if (parts.size() != 1 && parts.size() != 3)
    throw BadInput("--batch: must be N or MIN:MAX:STEP, got {}", in_quotes(text));
  if (parts.size() == 1) return parts;
  std::vector<int64_t> out;
  for (int64_t batch = parts[0]; batch <= parts[1] && out.size() < 1000; batch += parts[2]) out.push_back(batch);
  if (out.empty()) throw BadInput("--batch: {} holds no batch", in_quotes(text));
  return out;
}

Inputs read_inputs(const Options& options) {
  Inputs out;
  out.workload = recipe_workload(options.recipe, options.overrides);
  if (options.seq > 0) out.workload.sample.tokens = options.seq;
  out.shape = read_model_shape(out.workload.model);
  out.workload.sample.trainable = trainable_share(out.workload, out.shape);
  if (options.profile.empty()) {
    out.model = analytic_model(out.shape, out.workload.sample, options.tflops);
    if (!options.cluster.empty()) out.cluster = read_cluster(options.cluster);
    return out;
  }
  const ProfileFolder folder = open_profile(options.profile);
  const LayerType type{.count = out.shape.layers, .hidden = out.shape.hidden, .seq = out.workload.sample.tokens};
  const LoadedProfile profile = load_profile(folder, {.types = {type}, .time = time_mode(folder, type.seq)});
  out.model = planned_model(profile, out.shape, out.workload.sample);
  out.cluster = options.cluster.empty() ? profiled_cluster(folder, profile.hardware) : read_cluster(options.cluster);
  out.hash = folder.hash;
  return out;
}

void print_plan(size_t rank, const JudgedPlan& judged) {
  const Plan& plan = judged.plan;
  fmt::print("{}. {:.1f} ms a step, {:.2f} samples/s{}\n", rank, plan.predicted.step_ms,
             1000 * static_cast<double>(plan.global_batch) / plan.predicted.step_ms,
             judged.reason.empty() ? "" : "; lost by " + judged.reason);
  fmt::print("   {} stages of {} layers, batch {} in {} micro-batches; embeddings and head {}{}{}\n",
             plan.partition.size(), fmt::join(plan.partition, " "), plan.global_batch, plan.micro_batches,
             plan.embed.sp > 1 ? "sp " : "tp ", std::max(plan.embed.tp, plan.embed.sp),
             plan.embed.zero == 3 ? ", ZeRO-3" : "");
  fmt::print("   layers: {}\n", layers_text(plan));
  if (judged.even_step_ms > plan.predicted.step_ms * (1 + 1e-9)) {
    fmt::print("   moved boundaries gain {:.1f}% over even stages\n",
               100 * (judged.even_step_ms / plan.predicted.step_ms - 1));
  }
  fmt::print("   stage  memory GiB  compute  exchanges  exposed  bubble\n");
  for (size_t i = 0; i < judged.stages.size(); ++i) {
    const StageView& stage = judged.stages[i];
    const double step = plan.predicted.step_ms / 100;
    fmt::print("   {:>5}  {:>10.1f}  {:>6.1f}%  {:>8.1f}%  {:>6.1f}%  {:>5.1f}%\n", i, stage.memory.total() / 1024,
               stage.compute / step, stage.exchange / step, stage.exposed / step, stage.bubble / step);
  }
}

/// Of an optimizer step on all ranks as planned; on fewer, where several steps might run beside the rollout, by uniform
/// plans of their own.
std::map<int64_t, double> update_times(const Inputs& in, const SearchQuery& asked, const Plan& plan) {
  std::map<int64_t, double> out = {{in.cluster.world(), plan.predicted.step_ms}};
  if (in.workload.minibatches == 1) return out;
  SearchQuery query = asked;
  query.global_batch = plan.global_batch;
  query.micro_batches = plan.micro_batches;
  query.uniform = true;
  query.top = 1;
  for (Cluster part = in.cluster; part.world() > std::max<int64_t>(1, in.cluster.world() / 8);) {
    (part.nodes > 1 ? part.nodes : part.gpus_per_node) /= 2;
    try {
      const SearchResult found = search_plans(in.model, part, query);
      if (found.plans.empty()) break;
      out[part.world()] = found.plans.front().plan.predicted.step_ms;
    } catch (const BadInput&) {
      break;  // nothing divides so few ranks
    }
  }
  return out;
}

void print_placement(const PhasePlan& phases) {
  if (!phases.in_waves()) {
    fmt::print("   placement: every module on all ranks, one after the other\n");
    return;
  }
  fmt::print("   placement: in waves, {:.1f} s instead of {:.1f} s one after the other\n",
             phases.waves.milliseconds / 1000, phases.colocated_ms / 1000);
  for (const Wave& wave : phases.waves.waves) {
    std::string text;
    for (const WavePiece& piece : wave) {
      text += fmt::format("{}{} on {}", text.empty() ? "" : ", ", phases.ops[piece.op].name, piece.ranks);
    }
    fmt::print("     {}: {:.1f} s\n", text, wave_ms(phases.ops, wave) / 1000);
  }
}

/// The whole RL step: the modules of its tasks on the same ranks; again for each step from which on a schedule gives
/// the tasks other prompts.
void print_phases(const Options& options, const Inputs& in, const SearchQuery& query, const Plan& plan) {
  const std::map<int64_t, double> update_ms = update_times(in, query, plan);
  for (const Workload::Rollout& rollout : in.workload.rollouts) {
    std::vector<RolloutShape> tasks = rollout.tasks;
    int64_t samples = 0;
    for (RolloutShape& task : tasks) {
      task.tflops = options.tflops;
      task.memory_gbps = options.memory_gbps;
      task.reward_ms = options.reward_ms;
      task.prompt_tokens = options.prompt_tokens;
      task.update_ms = update_ms;
      samples += task.samples;
    }
    const PhasePlan phases = plan_phases(in.shape, tasks, in.cluster);
    if (in.workload.rollouts.size() > 1) {
      std::vector<std::string> counts;
      for (const RolloutShape& task : tasks) counts.push_back(fmt::format("{} {}", task.task, task.prompts));
      fmt::print("from step {} on, prompts: {}\n", rollout.step + 1, join(counts, ", "));
    }
    fmt::print("an RL step of {} samples:", samples);
    for (const PhasePlan::Phase& phase : phases.phases) {
      fmt::print(" {} {:.1f} s{}", phase.name, phase.alone_ms / 1000, &phase == &phases.phases.back() ? "" : ",");
    }
    fmt::print("; {:.1f} s, {:.2f} samples/s\n", phases.step_ms() / 1000,
               1000 * static_cast<double>(samples) / phases.step_ms());
    print_placement(phases);
  }
}

/// Simulates, and writes what the options ask for.
void deliver(const Options& options, const Inputs& in, SearchQuery query, const SearchResult& result) {
  const JudgedPlan& best = result.plans.front();
  if (options.simulate || !options.trace.empty() || !options.html.empty()) {
    const Simulation simulation = simulate_plan(in.model, in.cluster, {}, best.plan);
    if (options.simulate) {
      fmt::print("simulated: {:.1f} ms a step\n", simulation.step_ms);
      for (size_t i = 0; i < simulation.stages.size(); ++i) {
        const SimulatedStage& stage = simulation.stages[i];
        fmt::print("   stage {}: busy {:.1f}%, communication alone {:.1f}%, idle {:.1f}%, peak {:.1f} GiB\n", i,
                   100 * stage.busy, 100 * stage.exposed, 100 * stage.idle, stage.peak_mb / 1024);
      }
    }
    if (!options.trace.empty())
      io::write_file_atomic(options.trace, std::string_view(chrome_trace(simulation).dump() + "\n"));
    if (!options.html.empty()) {
      const std::string title = std::filesystem::path(options.recipe).stem().string();
      query.global_batch = best.plan.global_batch;
      query.micro_batches = best.plan.micro_batches;
      const std::vector<JudgedPlan> uniform = uniform_plans(in.model, in.cluster, query);
      io::write_file_atomic(options.html, std::string_view(plan_page(title, in.cluster, result, uniform, simulation)));
    }
  }
  if (!options.galvatron.empty()) {
    int zero = 0;
    for (const Strategy& s : best.plan.layers) zero = std::max(zero, s.zero == 3 ? 0 : s.zero);
    io::write_file_atomic(options.galvatron, std::string_view(galvatron_config(best.plan, zero).dump(4) + "\n"));
  }
  if (!options.json_file.empty()) {
    io::write_file_atomic(options.json_file, std::string_view(plan_to_json(best.plan).dump(1) + "\n"));
  }
}

int plan_unified(const Options& options, Inputs in) {
  SearchResult best;
  SearchQuery query{.space = space_of(options),
                    .repairs = {},
                    .global_batch = 0,
                    .micro_batches = options.micro_batches,
                    .uniform = options.uniform,
                    .memory_gib = options.memory_gib,
                    .top = options.top};
  for (const int64_t batch : batches_of(options.batch, in.workload.batch)) {
    query.global_batch = batch;
    SearchResult result = search_plans(in.model, in.cluster, query);
    const auto rate = [](const SearchResult& r) {
      const Plan& plan = r.plans.front().plan;
      return static_cast<double>(plan.global_batch) / plan.predicted.step_ms;
    };
    if (best.plans.empty() ? result.least_mb > 0 : !result.plans.empty() && rate(result) > rate(best))
      best = std::move(result);
  }
  if (best.plans.empty()) {
    throw BadInput("no plan fits {:.1f} GiB a rank: stage {} needs at least {:.1f} GiB",
                   query.memory_gib > 0 ? query.memory_gib : in.cluster.memory_gib, best.binding_stage,
                   best.least_mb / 1024);
  }
  for (JudgedPlan& judged : best.plans) judged.plan.profile_hash = in.hash;
  fmt::print("{} ranks in {} nodes, {} layers of width {}, {} tokens a sample\n", in.cluster.world(), in.cluster.nodes,
             in.shape.layers, in.shape.hidden, in.workload.sample.tokens);
  for (size_t i = 0; i < best.plans.size(); ++i) print_plan(i + 1, best.plans[i]);
  print_phases(options, in, query, best.plans.front().plan);
  deliver(options, in, query, best);
  return 0;
}

/// Says what would do: memory is doubled until a plan fits, then narrowed down.
[[noreturn]] void refuse_memory(const LoadedProfile& profile, GalvatronQuery query) {
  const double asked = query.memory_gib;
  double low = asked, high = asked;
  std::optional<GalvatronPlan> least;
  for (int round = 0; round < 40 && (!least || high - low > 0.05); ++round) {
    query.memory_gib = least ? (low + high) / 2 : 2 * high;
    auto found = search_galvatron(profile.model, profile.hardware, query);
    (found ? high : low) = query.memory_gib;
    if (!found && !least) high = low;
    if (found) least = std::move(found);
  }
  if (!least) throw BadInput("no plan fits any memory under Galvatron's model");
  const auto stage = std::ranges::max_element(least->stage_mb) - least->stage_mb.begin();
  throw BadInput("no plan fits {:.1f} GiB a rank under Galvatron's model: stage {} needs {:.1f} GiB of it", asked,
                 stage, high);
}

int plan_galvatron(const Options& options) {
  if (options.profile.empty()) throw BadInput("--cost galvatron needs --profile, a folder of its profile files");
  const Inputs in = read_inputs(options);
  const ProfileFolder folder = open_profile(options.profile);
  GalvatronQuery query{.setting = {.types = {{in.shape.layers, in.shape.hidden, in.workload.sample.tokens}},
                                   .world = options.world > 0 ? options.world : folder.nodes * folder.gpus_per_node,
                                   .half = in.workload.sample.half},
                       .memory_gib = options.memory_gib > 0 ? options.memory_gib : in.cluster.memory_gib};
  query.setting.global_batch = batches_of(options.batch, in.workload.batch).front();
  query.setting.micro_batches = options.micro_batches;
  const LoadedProfile profile = load_profile(folder, {.types = query.setting.types});
  const auto found = search_galvatron(profile.model, profile.hardware, query);
  if (!found) refuse_memory(profile, query);
  Plan plan;
  plan.world = query.setting.world;
  plan.global_batch = query.setting.global_batch;
  plan.micro_batches = found->micro_batches;
  plan.partition = found->partition;
  plan.embed = {found->embed.tp, found->embed.sp, found->embed.zero};
  plan.layers = found->layers;
  plan.predicted = {found->seconds * 1000, 0, found->stage_mb};
  plan.profile_hash = folder.hash;
  fmt::print("{:.7f} samples/s by Galvatron's model\nlayers: {}\n",
             static_cast<double>(plan.global_batch) / found->seconds, layers_text(plan));
  if (!options.galvatron.empty()) {
    io::write_file_atomic(options.galvatron,
                          std::string_view(galvatron_config(plan, query.default_zero).dump(4) + "\n"));
  }
  if (!options.json_file.empty())
    io::write_file_atomic(options.json_file, std::string_view(plan_to_json(plan).dump(1) + "\n"));
  return 0;
}

/// Whether the model has the plan's layers, and heads for its splits.
void check_model(const Plan& plan, const ModelShape& shape, const std::string& file) {
  if (shape.layers != std::ssize(plan.layers)) {
    throw BadInput("{}: layers: {}, the model has {}", file, plan.layers.size(), shape.layers);
  }
  for (size_t i = 0; i < plan.layers.size(); ++i) {
    if (shape.heads % plan.layers[i].split() == 0) continue;
    throw BadInput("{}: layer {}: a split of {} does not divide the model's {} heads", file, i, plan.layers[i].split(),
                   shape.heads);
  }
}

/// What the recipe's step takes by it.
Plan judged(const Options& options, Plan plan) {
  const Inputs in = read_inputs(options);
  if (in.cluster.world() != plan.world) {
    throw BadInput("{}: world: {}, the {} has {} ranks", options.import_file, plan.world,
                   options.cluster.empty() ? "profile" : "cluster", in.cluster.world());
  }
  const JudgedPlan judged = judge_plan(in.model, in.cluster, {}, plan);
  print_plan(1, judged);
  plan = judged.plan;
  plan.profile_hash = in.hash;
  return plan;
}

/// Converts a Galvatron configuration, or checks a plan of ours against a profile; with a recipe and where it is to run
/// it is judged.
int import_plan(const Options& options) {
  const json content = io::read_json_file(options.import_file, {}, size_t{16} << 20);
  const bool ours = content.is_object() && content.contains("format");
  Plan plan = ours ? plan_from_json(content, options.import_file)
                   : plan_from_galvatron(content, options.world, options.import_file);
  if (ours && options.world > 0 && options.world != plan.world) {
    throw BadInput("{}: world: {}, the command asks for {}", options.import_file, plan.world, options.world);
  }
  if (!options.profile.empty()) {
    const std::string hash = open_profile(options.profile).hash;
    if (!plan.profile_hash.empty() && hash != plan.profile_hash) {
      throw BadInput("{}: profile_hash: was made from the profile {}, {} is {}", options.import_file,
                     in_quotes(plan.profile_hash, 12), options.profile, in_quotes(hash, 12));
    }
  }
  if (!options.recipe.empty()) {
    check_model(plan, read_model_shape(recipe_workload(options.recipe, options.overrides).model), options.import_file);
  }
  fmt::print("world {}, {} stages of {} layers, batch {} in {} micro-batches\nlayers: {}\n", plan.world,
             plan.partition.size(), fmt::join(plan.partition, " "), plan.global_batch, plan.micro_batches,
             layers_text(plan));
  const bool has_place = !options.profile.empty() || !options.cluster.empty();
  if (!options.recipe.empty() && has_place) plan = judged(options, std::move(plan));
  if (!options.json_file.empty())
    io::write_file_atomic(options.json_file, std::string_view(plan_to_json(plan).dump(1) + "\n"));
  if (!options.galvatron.empty()) {
    int zero = 0;
    for (const Strategy& s : plan.layers) zero = std::max(zero, s.zero == 3 ? 0 : s.zero);
    io::write_file_atomic(options.galvatron, std::string_view(galvatron_config(plan, zero).dump(4) + "\n"));
  }
  return 0;
}

/// Waves of a graph of modules.
int plan_graph(const Options& options) {
  const ModuleGraph graph = graph_from_json(io::read_json_file(options.graph, {}, size_t{16} << 20), options.graph);
  const WaveSchedule schedule = schedule_waves(graph.ops, graph.ranks);
  fmt::print("{:.1f} ms in {} waves on {} ranks; no schedule is quicker than {:.1f} ms\n", schedule.milliseconds,
             schedule.waves.size(), graph.ranks, schedule.lower_bound);
  if (graph.worst) {
    fmt::print("times held out: at most {:.1f}% off ({} on {} ranks){}\n", 100 * graph.worst->error, graph.worst->op,
               graph.worst->ranks, graph.worst->error > kHeldOutError ? "; profile more numbers of ranks there" : "");
  }
  for (const Wave& wave : schedule.waves) {
    std::string text;
    for (const WavePiece& piece : wave) {
      text += fmt::format("{}{} layers of {} on {}", text.empty() ? "" : ", ", piece.layers, graph.ops[piece.op].name,
                          piece.ranks);
    }
    fmt::print("   {:.1f} ms: {}\n", wave_ms(graph.ops, wave), text);
  }
  if (!options.json_file.empty()) {
    io::write_file_atomic(options.json_file, std::string_view(waves_to_json(graph.ops, schedule).dump(1) + "\n"));
  }
  return 0;
}

int run_plan(const Options& options) {
  if (!options.graph.empty()) return plan_graph(options);
  if (!options.import_file.empty()) return import_plan(options);
  if (options.recipe.empty()) throw BadInput("plan takes a recipe, --import or --graph; see `unigrpo plan --help`");
  if (options.cost == "galvatron") return plan_galvatron(options);
  return plan_unified(options, read_inputs(options));
}

}  // namespace

Run declare_plan(CLI::App& app) {
  const auto o = std::make_shared<Options>();
  app.add_option("recipe", o->recipe, "Recipe whose update is to be spread over ranks");
  app.add_option("--profile", o->profile, "Folder of profile files (unigrpo profile, or Galvatron's own)");
  app.add_option("--cluster", o->cluster, "Cluster file, for a machine that is not here");
  app.add_option("--json", o->json_file, "Write the best plan here");
  app.add_option("--galvatron", o->galvatron, "Write it in Galvatron's form here");
  app.add_option("--html", o->html, "Write a page about the plan here");
  app.add_option("--trace", o->trace, "Write the simulated step here (chrome://tracing)");
  app.add_option("--import", o->import_file, "Convert, check or judge a Galvatron configuration or a plan instead");
  app.add_option("--graph", o->graph, "Modules that share ranks (JSON): plan their waves instead");
  app.add_option("--world", o->world, "Ranks, where a file does not say them")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}));
  app.add_option("--top", o->top, "Plans to print")->capture_default_str()->check(CLI::Range(int64_t{1}, int64_t{100}));
  app.add_option("--cost", o->cost, "Cost model")
      ->capture_default_str()
      ->check(CLI::IsMember({"unified", "galvatron"}));
  app.add_option("--space", o->space, "Dimensions that may be used (default: all)")
      ->delimiter(',')
      ->check(CLI::IsMember({"dp", "sdp", "tp", "sp", "pp", "ckpt"}));
  app.add_option("--max-tp", o->max_tp, "Largest tensor-parallel degree")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}));
  app.add_option("--max-pp", o->max_pp, "Most stages")->check(CLI::Range(int64_t{1}, int64_t{100000}));
  app.add_option("--max-sp", o->max_sp, "Largest sequence-parallel degree")
      ->check(CLI::Range(int64_t{1}, int64_t{100000}));
  app.add_flag("--uniform", o->uniform, "One strategy for all layers");
  app.add_option("--batch", o->batch, "Samples of an optimizer step: N, or MIN:MAX:STEP (default: the recipe's)");
  app.add_option("--micro-batches", o->micro_batches, "Micro-batches (default: every divisor is tried)")
      ->check(CLI::Range(int64_t{1}, int64_t{1000000}));
  app.add_option("--seq", o->seq, "Tokens a sample (default: by the recipe's episode)")
      ->check(CLI::Range(int64_t{1}, int64_t{10000000}));
  app.add_option("--tflops", o->tflops, "What a rank's products reach, where no profile says it")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--memory-gbps", o->memory_gbps, "What reading weights from a rank's memory reaches")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  app.add_option("--reward-ms", o->reward_ms, "Of a judge on a rank, a sample (default: judged elsewhere)")
      ->check(CLI::NonNegativeNumber);
  app.add_option("--prompt-tokens", o->prompt_tokens, "Of a prompt, for the prefill")
      ->capture_default_str()
      ->check(CLI::Range(int64_t{0}, int64_t{10000000}));
  app.add_option("--memory", o->memory_gib, "GiB a rank (default: the cluster's)")->check(CLI::PositiveNumber);
  app.add_flag("--simulate", o->simulate, "Play the best plan event by event");
  add_overrides(app, o->overrides);
  return [o] { return run_plan(*o); };
}

}  // namespace unigrpo::cli
