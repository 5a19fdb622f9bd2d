#include "planner/search_galvatron.h"

#include <bit>
#include <cmath>
#include <limits>

#include "planner/choose.h"

namespace unigrpo::planner {
namespace {

enum class Mode { tp_only, sp_only, both };

/// One task of the search: what may stand beside each other in one plan.
struct Task {
  int64_t micro_batches, pp;
  Mode mode;
  int64_t cap;  // on ranks a sample
};

std::vector<int64_t> partition_of_equals(int64_t layers, int64_t stages) {
  std::vector<int64_t> out(stages, layers / stages);
  out.back() += layers - layers / stages * stages;
  return out;
}

/// Bytes of the largest activation that a tensor-parallel group gathers, as truncated MB.
int64_t buffer_mb(const GalvatronSetting& set, int64_t micro_batches, int64_t pp, int64_t cap) {
  int64_t longest = 0;
  for (const LayerType& type : set.types) longest = std::max(longest, type.seq);
  const double replicas = static_cast<double>(set.world / pp / cap);
  const double batch = static_cast<double>(set.global_batch) / static_cast<double>(micro_batches) / replicas;
  const double mb =
      batch * static_cast<double>(set.types.front().hidden) * static_cast<double>(longest) * 4 / 1024 / 1024;
  return static_cast<int64_t>(set.half ? mb / 2 : mb);
}

// Between neighbours a -> b, seconds: with g the larger split, unless equal,
//   (g-1)/g B/k/(w/pp/g) S hidden 4h bytes c(g, consec 1) 1e-7
// 100 times the physical time. Of equal splits crumbs that keep an order: to sp 1e-10, to zero 3 1e-9, to recompute
// 2e-9, to both 3e-9, from zero 3 to recompute alone 1e-9.
double transition_seconds(const GalvatronCost& cost, const LayerType& type, const Strategy& a, const Strategy& b) {
  if (a == b) return 0;
  const GalvatronSetting& set = cost.setting();
  if (a.split() != b.split()) {
    const int64_t larger = std::max(a.split(), b.split());
    const auto g = static_cast<double>(larger);
    const double replicas = static_cast<double>(set.world / a.pp / larger);
    const double batch = static_cast<double>(set.global_batch) / static_cast<double>(set.micro_batches) / replicas;
    const double bytes = batch * static_cast<double>(type.seq) * static_cast<double>(type.hidden) * (set.half ? 2 : 4);
    return (g - 1) / g * bytes * cost.allreduce_ms_per_mb(larger, true) * 1e-7;
  }
  if (a.dp != b.dp) return 0;
  if (a.tp != b.tp) {  // tp to sp or back; crumbs only where all else is equal
    return a.zero == b.zero && a.recompute == b.recompute && b.sp > 1 ? 1e-10 : 0;
  }
  if (b.zero == 3 && b.recompute) return 3e-9;
  if (b.zero == 3) return !a.recompute && a.zero != 3 ? 1e-9 : 0;
  if (!b.recompute || a.recompute) return 0;
  return a.zero == 3 ? 1e-9 : 2e-9;
}

class GalvatronSearcher {
 public:
  GalvatronSearcher(const ModelProfile& model, const HardwareProfile& hardware, const GalvatronQuery& query)
      : model_(model), hardware_(hardware), query_(query) {
    for (const LayerType& type : query.setting.types) num_layers_ += type.count;
  }

  std::optional<GalvatronPlan> run() {
    const int64_t batch = query_.setting.global_batch;
    for (int64_t k = 1; k <= batch; ++k) {
      if (batch % k != 0) continue;
      if (query_.setting.micro_batches != 0 && query_.setting.micro_batches != k) continue;
      for (int64_t pp = 1; pp <= std::min({query_.setting.world, query_.space.max_pp, num_layers_, k}); pp *= 2) {
        for (const Mode mode : {Mode::tp_only, Mode::sp_only, Mode::both}) {
          for (const int64_t cap : caps(k, pp, mode)) try_task({k, pp, mode, cap});
        }
      }
    }
    return best_;
  }

 private:
  int64_t most_replicas(int64_t k, int64_t pp) const {
    return std::max<int64_t>(1, std::min(query_.setting.global_batch / k, query_.setting.world / pp));
  }

  std::vector<int64_t> caps(int64_t k, int64_t pp, Mode mode) const {
    const int64_t ranks = query_.setting.world / pp, most = std::min(ranks, query_.space.max_tp);
    if (mode == Mode::sp_only) return {most};
    std::vector<int64_t> out;
    for (int64_t cap = std::max<int64_t>(1, ranks / most_replicas(k, pp)); cap <= most; ++cap) {
      if (std::has_single_bit(static_cast<uint64_t>(cap))) out.push_back(cap);
    }
    return out;
  }

  std::vector<Strategy> strategies_of(const Task& task) const {
    Space space = query_.space;
    if (task.mode == Mode::sp_only) space.tp = false;
    if (task.mode == Mode::tp_only) space.sp = false;
    std::vector<Strategy> out;
    for (const Strategy& s : strategies(query_.setting.world, task.pp, space, 0, query_.default_zero)) {
      if (s.split() <= task.cap && s.dp <= most_replicas(task.micro_batches, task.pp)) out.push_back(s);
    }
    return out;
  }

  ChooseProblem stage_problem(const GalvatronCost& cost, const std::vector<Strategy>& list, int64_t stage) const {
    ChooseProblem problem;
    for (size_t type = 0; type < cost.setting().types.size(); ++type) {
      auto& memory = problem.memory.emplace_back();
      auto& time = problem.time.emplace_back();
      auto& transition = problem.transition.emplace_back();
      for (const Strategy& s : list) {
        memory.push_back(
            static_cast<int64_t>(std::ceil(cost.layer_states_mb(type, s) + cost.layer_activation_mb(type, s, stage))));
        time.push_back(cost.layer_seconds(type, s, true));
        auto& row = transition.emplace_back();
        for (const Strategy& next : list) row.push_back(transition_seconds(cost, cost.setting().types[type], s, next));
      }
    }
    return problem;
  }

  void try_task(const Task& task) {
    GalvatronSetting setting = query_.setting;
    setting.micro_batches = task.micro_batches;
    const GalvatronCost cost(model_, hardware_, setting);
    const std::vector<Strategy> list = strategies_of(task);
    if (list.empty()) return;
    const std::vector<int64_t> partition = partition_of_equals(num_layers_, task.pp), types = cost.layer_types();
    std::vector<ChooseProblem> problems;
    int64_t first = 0;
    for (int64_t stage = 0; stage < task.pp; ++stage) {
      problems.push_back(stage_problem(cost, list, stage));
      problems.back().layers.assign(types.begin() + first, types.begin() + first + partition[stage]);
      first += partition[stage];
    }
    const int64_t buffer = task.mode == Mode::sp_only ? 0 : buffer_mb(setting, task.micro_batches, task.pp, task.cap);
    for (const Strategy& embed : list) {
      if (embed.recompute) continue;
      GalvatronPlan plan{.layers = {},
                         .partition = partition,
                         .embed = embed,
                         .micro_batches = task.micro_batches,
                         .seconds = 0,
                         .stage_mb = {}};
      if (!fill(plan, problems, list, cost, buffer)) continue;
      plan.seconds = cost.step_seconds(plan.layers, partition, embed);
      if (!best_ || plan.seconds < best_->seconds) {
        plan.stage_mb = galvatron_stage_mb(cost, plan, task.mode == Mode::sp_only ? 0 : task.cap);
        best_ = plan;
      }
    }
  }

  bool fill(GalvatronPlan& plan, std::vector<ChooseProblem>& problems, const std::vector<Strategy>& list,
            const GalvatronCost& cost, int64_t buffer) const {
    const std::vector<double> embed = cost.embed_mb(plan.embed);
    for (size_t stage = 0; stage < problems.size(); ++stage) {
      problems[stage].budget =
          galvatron_budget_mb(query_.memory_gib) - buffer - static_cast<int64_t>(std::ceil(embed[stage]));
      if (problems[stage].budget < 0) return false;
      const auto choice = choose_strategies(problems[stage]);
      if (!choice) return false;
      for (const int64_t s : choice->strategies) plan.layers.push_back(list[s]);
    }
    return true;
  }

  const ModelProfile& model_;
  const HardwareProfile& hardware_;
  const GalvatronQuery& query_;
  int64_t num_layers_ = 0;
  std::optional<GalvatronPlan> best_;
};

}  // namespace

int64_t galvatron_budget_mb(double memory_gib) {
  const auto mb = static_cast<int64_t>(memory_gib * 1024);
  return mb / 1024 > 20 ? mb - static_cast<int64_t>(static_cast<double>(mb) * 0.2) : mb;
}

std::vector<double> galvatron_stage_mb(const GalvatronCost& cost, const GalvatronPlan& plan, int64_t cap) {
  std::vector<double> out;
  const std::vector<double> embed = cost.embed_mb(plan.embed);
  const std::vector<int64_t> types = cost.layer_types();
  size_t layer = 0;
  for (size_t stage = 0; stage < plan.partition.size(); ++stage) {
    const auto pp = static_cast<int64_t>(plan.partition.size());
    double mb = std::ceil(embed[stage]);
    if (cap > 0) mb += static_cast<double>(buffer_mb(cost.setting(), plan.micro_batches, pp, cap));
    for (int64_t i = 0; i < plan.partition[stage]; ++i, ++layer) {
      mb += std::ceil(cost.layer_states_mb(types[layer], plan.layers[layer]) +
                      cost.layer_activation_mb(types[layer], plan.layers[layer], static_cast<int64_t>(stage)));
    }
    out.push_back(mb);
  }
  return out;
}

std::optional<GalvatronPlan> search_galvatron(const ModelProfile& model, const HardwareProfile& hardware,
                                              const GalvatronQuery& query) {
  return GalvatronSearcher(model, hardware, query).run();
}

}  // namespace unigrpo::planner
