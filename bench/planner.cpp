// How long plans take, and how good they are: one core, median CPU seconds.
//
//   build/bin/bench_planner [tests/data/planner] [repeats]
//
// Columns are explained in docs/BENCHMARKS.md. bench/planner_peer.py measures the numpy rewrite of the search.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/rng.h"
#include "io/json.h"
#include "planner/choose.h"
#include "planner/flexible_sequence.h"
#include "planner/model_shape.h"
#include "planner/phases.h"
#include "planner/search.h"
#include "planner/selftest.h"
#include "planner/simulate.h"
#include "planner/wave_search.h"
#include "sequence_cost.h"

namespace {

using namespace unigrpo;
using namespace unigrpo::planner;

struct Row {
  std::string what, result;
  double seconds, limit;
};

double median_seconds(int repeats, const std::function<void()>& work) {
  std::vector<double> times;
  for (int i = 0; i < repeats; ++i) {
    const std::clock_t start = std::clock();  // of this process: what else runs does not count
    work();
    times.push_back(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC);
  }
  std::ranges::sort(times);
  return times[times.size() / 2];
}

/// 96 layers of 3 types, 24 strategies, 80 GiB.
ChooseProblem large_choice() {
  RandomStream random({.seed = 96});
  ChooseProblem problem;
  problem.budget = 80 * 1024;
  for (int64_t i = 0; i < 96; ++i) problem.layers.push_back(i / 32);
  for (int type = 0; type < 3; ++type) {
    auto& memory = problem.memory.emplace_back();
    auto& time = problem.time.emplace_back();
    auto& transition = problem.transition.emplace_back();
    for (int s = 0; s < 24; ++s) {
      const double share = random.uniform();
      memory.push_back(static_cast<int64_t>(300 + 1500 * share));
      time.push_back(6 - 3 * share + random.uniform(0, 1));
      auto& row = transition.emplace_back();
      for (int r = 0; r < 24; ++r) row.push_back(r == s || random.chance(0.5) ? 0 : random.uniform(0, 0.6));
    }
  }
  return problem;
}

double table_optimum(const ChooseProblem& p) {
  const size_t kinds = p.time.front().size();
  const auto cells = static_cast<size_t>(p.budget + 1);
  std::vector<double> f(cells * kinds, 0), next(cells * kinds);
  for (size_t i = 0; i < p.layers.size(); ++i) {
    const auto& memory = p.memory[p.layers[i]];
    for (size_t s = 0; s < kinds; ++s) {
      for (size_t v = 0; v < cells; ++v) {
        double best = INFINITY;
        if (static_cast<int64_t>(v) >= memory[s]) {
          const double* row = &f[(v - memory[s]) * kinds];
          for (size_t r = 0; r < kinds; ++r) {
            best = std::min(best, row[r] + (i == 0 ? 0 : p.transition[p.layers[i]][r][s]));
          }
        }
        next[v * kinds + s] = best + p.time[p.layers[i]][s];
      }
    }
    std::swap(f, next);
  }
  return *std::min_element(f.end() - static_cast<long>(kinds), f.end());
}

Row choice_row(int repeats) {
  const ChooseProblem problem = large_choice();
  double cost = 0;
  const double seconds = median_seconds(repeats, [&] { cost = choose_strategies(problem)->cost; });
  return {"96 layers x 24 strategies x 80 GiB", fmt::format("{:.4f}, table {:.4f}", cost, table_optimum(problem)),
          seconds, 0.2};
}

Row search_row(const std::filesystem::path& data, int repeats) {
  const nlohmann::json profiles = io::read_json_file(data / "profiles.json"),
                       cases = io::read_json_file(data / "galvatron.json");
  for (const nlohmann::json& one : cases["cases"]) {
    if (one["name"] != "p.search0") continue;
    double rate = 0;
    const double seconds =
        median_seconds(repeats, [&] { rate = solve_case(one["op"], one["input"], profiles)["throughput"]; });
    return {"Galvatron search p.search0", fmt::format("{:.8f} samples/s", rate), seconds, INFINITY};
  }
  throw BadInput("{}: no p.search0", data.string());
}

/// Lengths that fill a share of the memory, three sets of them: the longest time, the widest gap to the bound, the most
/// over what eight times the effort finds.
Row flexible_row(double fill) {
  double seconds = 0, gap = 0, over = 0;
  for (const uint64_t seed : {512, 513, 514}) {
    SequenceCost cost = bench::cost_7b();
    RandomStream random({.seed = seed});
    std::vector<int64_t> lengths;
    int64_t tokens = 0;
    for (int i = 0; i < 512; ++i) {
      lengths.push_back(128 * (1 + static_cast<int64_t>(2 * std::exp(1.1 * random.normal()))));
      tokens += lengths.back();
    }
    cost.tokens_per_rank = static_cast<int64_t>(static_cast<double>(tokens) / fill / 64);
    const auto sequences = full_attention(lengths);
    Assignment best;
    seconds = std::max(seconds, median_seconds(1, [&] { best = *assign_sequences(cost, sequences, 64); }));
    const AssignEffort effort{.regroupings = 8 * kRegroupings, .solver = false};
    const double known = std::min(best.milliseconds, assign_sequences(cost, sequences, 64, effort)->milliseconds);
    gap = std::max(gap, best.milliseconds / best.lower_bound - 1);
    over = std::max(over, best.milliseconds / known - 1);
  }
  return {fmt::format("512 lengths on 64 ranks, {:.0f}% full", 100 * fill),
          fmt::format("gap to the bound {:.2f}%, over the best known {:.2f}%", 100 * gap, 100 * over), seconds, 1};
}

Row waves_row(int repeats) {
  RandomStream random({.seed = 30});
  std::vector<MetaOp> ops;
  for (size_t m = 0; m < 30; ++m) {
    MetaOp& op = ops.emplace_back();
    op.name = fmt::format("op{}", m);
    op.layers = 2 + static_cast<int64_t>(random.below(24));
    const double work = random.uniform(5, 120), fixed = random.uniform(0.1, 1.5);
    for (int64_t n = 1; n <= 64; n *= 2) op.ms[n] = work / static_cast<double>(n) + fixed;
    if (m >= 10) op.deps.push_back(random.below(m));
  }
  WaveSchedule schedule;
  const double seconds = median_seconds(repeats, [&] { schedule = schedule_waves(ops, 64); });
  // The best known: beams four times as wide.
  const WaveShape shape(ops, 64);
  double known = schedule.milliseconds;
  for (const size_t lengths : {10, 16}) {
    std::vector<Wave> waves = beam_waves(shape, {.width = 16, .tries = 3, .most_lengths = lengths});
    improve_waves(shape, waves);
    known = std::min(known, total_ms(ops, waves));
  }
  return {"64 ranks x 30 MetaOps",
          fmt::format("{:.1f} ms, bound {:.1f}, over the best known {:.2f}%", schedule.milliseconds,
                      schedule.lower_bound, 100 * (schedule.milliseconds / known - 1)),
          seconds, 1};
}

/// A step of drawing, changing images and questions on 64 ranks whose shares change: the plan after each change.
Row tasks_row(int repeats) {
  const ModelShape shape{
      .layers = 28, .hidden = 3584, .intermediate = 18944, .heads = 28, .kv_heads = 4, .vocab = 152064, .experts = 2};
  const int64_t prompts[][3] = {{16, 16, 16}, {32, 8, 8}, {4, 4, 40}, {24, 24, 0}};
  PhasePlan plan;
  double slowest = 0;
  for (const auto& share : prompts) {
    std::vector<RolloutShape> tasks;
    for (size_t t = 0; t < 3; ++t) {
      if (share[t] == 0) continue;
      const char* names[] = {"draw", "edit", "ask"};
      tasks.push_back(
          {.task = names[t], .samples = 16 * share[t], .prompts = share[t], .prompt_tokens = 256, .text_tokens = 128});
      RolloutShape& task = tasks.back();
      task.reward_ms = 200;
      task.minibatches = 2;
      task.update_ms = {{8, 90000}, {16, 46000}, {32, 24000}, {64, 15000}};
      if (t < 2) task.image_tokens = 1024, task.denoise_steps = 20;
    }
    slowest = std::max(
        slowest, median_seconds(repeats, [&] { plan = plan_phases(shape, tasks, {.nodes = 8, .gpus_per_node = 8}); }));
  }
  return {"64 ranks x three tasks, new shares",
          fmt::format("{} modules, {:.1f} s, in turn {:.1f} s", plan.ops.size(), plan.step_ms() / 1000,
                      plan.colocated_ms / 1000),
          slowest, 1};
}

Row simulator_row() {
  const ModelShape shape{
      .layers = 32, .hidden = 4096, .intermediate = 11008, .heads = 32, .kv_heads = 32, .vocab = 32000};
  const PlannedModel model = analytic_model(shape, {.tokens = 4096}, 400);
  const Cluster cluster{.nodes = 128};
  const SearchQuery query{.global_batch = 1024, .micro_batches = 8};
  const SearchResult found = search_plans(model, cluster, query);
  Simulation run;
  const double seconds = median_seconds(3, [&] { run = simulate_plan(model, cluster, {}, found.plans.at(0).plan); });
  return {"simulator, 1024 ranks, a 7B step",
          fmt::format("{:.1f} ms a step, {} events", run.step_ms, run.events.size()), seconds, 10};
}

}  // namespace

int main(int argc, char** argv) {
  const std::filesystem::path data = argc > 1 ? argv[1] : "tests/data/planner";
  const int repeats = argc > 2 ? std::atoi(argv[2]) : 5;
  try {
    std::printf("%-36s %10s %8s   %s\n", "what", "CPU s", "limit", "result");
    for (const Row& row : {choice_row(repeats), search_row(data, repeats), flexible_row(0.6), flexible_row(0.9),
                           flexible_row(0.95), waves_row(repeats), tasks_row(repeats), simulator_row()}) {
      std::printf("%-36s %10.4f %8.3g   %s\n", row.what.c_str(), row.seconds, row.limit, row.result.c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_planner: %s\n", error.what());
    return 1;
  }
  return 0;
}
