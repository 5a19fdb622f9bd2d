#include "planner/search.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/error.h"
#include "planner/choose.h"
#include "planner/numbers.h"

namespace unigrpo::planner {
namespace {

constexpr int64_t kMostUniformStages = 16;
constexpr double kUnit = 1024;  // the choice counts whole MB; GiB only in messages

std::vector<int64_t> types_of(const PlannedModel& model) {
  std::vector<int64_t> out;
  for (size_t type = 0; type < model.layers.size(); ++type) {
    out.insert(out.end(), model.layers[type].count, static_cast<int64_t>(type));
  }
  return out;
}

std::vector<int64_t> even_partition(int64_t layers, int64_t stages) {
  std::vector<int64_t> out(stages, layers / stages);
  for (int64_t i = 0; i < layers % stages; ++i) ++out[stages - 1 - i];
  return out;
}

Strategy end_strategy(const Plan& plan) {
  const int64_t ranks = plan.world / std::ssize(plan.partition);
  return {.pp = std::ssize(plan.partition),
          .tp = plan.embed.tp,
          .sp = plan.embed.sp,
          .dp = ranks / (plan.embed.tp * plan.embed.sp),
          .zero = plan.embed.zero,
          .recompute = false};
}

/// Weights gathered at once under ZeRO-3: the unit at work and the next.
double gather_buffer_mb(const CostModel& cost, size_t type, const Strategy& s) {
  if (s.zero != 3) return 0;
  return 2 * cost.model().layers[type].parameter_mb / static_cast<double>(s.tp) * (cost.model().half ? 0.5 : 1);
}

int64_t whole_mb(double mb) { return static_cast<int64_t>(std::ceil(mb)); }

class Searcher {
 public:
  Searcher(const PlannedModel& model, const Cluster& cluster, const SearchQuery& query)
      : model_(model),
        cluster_(cluster),
        query_(query),
        types_(types_of(model)),
        budget_(whole_mb((query.memory_gib > 0 ? query.memory_gib : cluster.memory_gib) * kUnit) - 1) {
    result_.least_mb = kInfinity;
  }

  std::vector<JudgedPlan> uniform() const {
    std::vector<JudgedPlan> out;
    const auto layers = std::ssize(types_);
    for (int64_t pp = 1; pp <= std::min({layers, cluster_.world(), kMostUniformStages}); ++pp) {
      if (cluster_.world() % pp != 0) continue;
      for (const Strategy& s : list_of(pp, query_.micro_batches)) {
        Plan plan{.world = cluster_.world(),
                  .global_batch = query_.global_batch,
                  .micro_batches = query_.micro_batches,
                  .partition = even_partition(layers, pp),
                  .embed = {s.tp, s.sp, s.zero}};
        plan.layers.assign(types_.size(), s);
        out.push_back(judge_plan(model_, cluster_, query_.repairs, plan));
      }
    }
    return out;
  }

  SearchResult run() {
    const int64_t world = cluster_.world(), layers = std::ssize(types_);
    const int64_t most = query_.space.pp ? (query_.space.max_pp > 0 ? query_.space.max_pp : world) : 1;
    bool divides = false;
    for (int64_t pp = 1; pp <= std::min({world, layers, most}); ++pp) {
      if (world % pp != 0) continue;
      for (int64_t k = 1; k <= query_.global_batch; ++k) {
        if (query_.global_batch % k != 0 || k < pp) continue;
        if (query_.micro_batches != 0 && query_.micro_batches != k) continue;
        divides = try_micro_batches(pp, k) || divides;
      }
    }
    if (!divides) {
      throw BadInput("no strategy divides a world of {}: batch {}, {} layers, heads of the layers {}", world,
                     query_.global_batch, layers, model_.layers.front().heads);
    }
    explain();
    return std::move(result_);
  }

 private:
  /// Replicas must share out the samples of a micro-batch evenly.
  std::vector<Strategy> list_of(int64_t pp, int64_t k) const {
    Space space = query_.space;
    if (!query_.repairs.any_degree) space.powers_of_two = true;
    int64_t heads = 0;
    for (const PlannedLayer& layer : model_.layers) heads = std::gcd(heads, layer.heads);
    std::vector<Strategy> out;
    for (const Strategy& s : strategies(cluster_.world(), pp, space, heads, 0)) {
      if (query_.global_batch / k % s.dp != 0) continue;
      out.push_back(s);
      if (s.dp == 1 && s.sp > 1 && query_.repairs.shard_sp_groups && space.sdp) {
        out.push_back(s);
        out.back().zero = 3;
      }
      if (s.zero == 1 && s.dp > 1) {
        out.push_back(s);
        out.back().zero = 2;
      }
    }
    std::ranges::sort(out);
    return out;
  }

  struct Costs {                                     // of a strategy list, by type and strategy
    std::vector<std::vector<double>> step, compute;  // ms of k micro-batches and sync; of a micro-batch
    std::vector<std::vector<MemoryView>> memory;
    std::vector<std::vector<std::vector<double>>> transition;
  };

  Costs costs_of(const CostModel& cost, const std::vector<Strategy>& list) const {
    Costs out;
    const auto k = static_cast<double>(cost.micro_batches());
    for (size_t type = 0; type < model_.layers.size(); ++type) {
      auto &step = out.step.emplace_back(), &compute = out.compute.emplace_back();
      auto& memory = out.memory.emplace_back();
      auto& transition = out.transition.emplace_back();
      for (const Strategy& s : list) {
        const LayerWork work = cost.layer_work(type, s);
        step.push_back(k * (cost.forward_ms(work) + cost.backward_ms(work)) + cost.exposed_sync_ms(work));
        compute.push_back(work.forward + work.backward);
        memory.push_back(cost.layer_memory(type, s));
        auto& row = transition.emplace_back();
        for (const Strategy& next : list) row.push_back(k * cost.transition_ms(type, s, next));
      }
    }
    return out;
  }

  /// False where no strategy is of this many stages and micro-batches.
  bool try_micro_batches(int64_t pp, int64_t k) {
    const CostModel cost(model_, cluster_, query_.repairs, query_.global_batch, k);
    const std::vector<Strategy> list = list_of(pp, k);
    if (list.empty()) return false;
    const Costs costs = costs_of(cost, list);
    double compute = 0;
    for (const int64_t type : types_) compute += *std::ranges::min_element(costs.compute[type]);
    if (!result_.plans.empty() && std::ssize(result_.plans) >= query_.top &&
        compute / static_cast<double>(pp) * static_cast<double>(k) >= result_.plans.back().plan.predicted.step_ms) {
      ++result_.cut_by_time;
      return true;
    }
    for (const Strategy& end : list) {
      Plan plan{.world = cluster_.world(),
                .global_batch = query_.global_batch,
                .micro_batches = k,
                .partition = even_partition(std::ssize(types_), pp),
                .embed = {end.tp, end.sp, end.zero}};
      if (query_.uniform) {  // embeddings and head are like the layers
        ++result_.tried;
        plan.layers.assign(types_.size(), end);
        offer(plan);
        continue;
      }
      if (end.recompute || (end.zero != 0 && end.zero != 3)) continue;
      ++result_.tried;
      if (!fill(plan, cost, costs, list)) continue;
      JudgedPlan judged = judge_plan(model_, cluster_, query_.repairs, plan);
      const double even = judged.plan.predicted.step_ms;
      if (query_.repairs.uneven_stages) judged = move_boundaries(std::move(judged), cost, costs, list);
      judged.even_step_ms = even;
      keep(std::move(judged));
    }
    return true;
  }

  /// Chooses the layers of every stage; false where one does not fit, which is noted.
  bool fill(Plan& plan, const CostModel& cost, const Costs& costs, const std::vector<Strategy>& list) {
    plan.layers.clear();
    const auto stages = std::ssize(plan.partition);
    size_t first = 0;
    for (int64_t stage = 0; stage < stages; ++stage) {
      const int64_t held = held_micro_batches(plan.schedule, stages, stage, plan.micro_batches);
      MemoryView ends;
      if (stage == 0) ends += held_memory(cost.end_memory(model_.embed, end_strategy(plan)), held);
      if (stage == stages - 1) ends += held_memory(cost.end_memory(model_.head, end_strategy(plan)), held);
      double buffer = 0;
      ChooseProblem problem{
          .layers = {}, .memory = {}, .time = costs.step, .transition = costs.transition, .budget = 0};
      for (size_t type = 0; type < costs.memory.size(); ++type) {
        auto& row = problem.memory.emplace_back();
        for (size_t s = 0; s < list.size(); ++s) {
          row.push_back(whole_mb(held_memory(costs.memory[type][s], held).total()));
          buffer = std::max(buffer, gather_buffer_mb(cost, type, list[s]));
        }
      }
      problem.layers.assign(types_.begin() + static_cast<long>(first),
                            types_.begin() + static_cast<long>(first) + plan.partition[stage]);
      // Room for the gathered weights is kept where some strategy may need it.
      problem.budget = budget_ - whole_mb(ends.total() + buffer);
      int64_t least = 0;
      for (const int64_t type : problem.layers) least += *std::ranges::min_element(problem.memory[type]);
      const auto choice = least > problem.budget ? std::nullopt : choose_strategies(problem);
      if (!choice) {
        ++result_.cut_by_memory;
        const double needed = static_cast<double>(least) + ends.total() + buffer;
        if (needed < result_.least_mb) result_.least_mb = needed, result_.binding_stage = stage;
        return false;
      }
      for (const int64_t s : choice->strategies) plan.layers.push_back(list[s]);
      first += static_cast<size_t>(plan.partition[stage]);
    }
    return true;
  }

  static MemoryView held_memory(MemoryView view, int64_t held) {
    view.activations *= static_cast<double>(held);
    return view;
  }

  /// The busiest stage gives a layer to a neighbour while that shortens the step.
  JudgedPlan move_boundaries(JudgedPlan best, const CostModel& cost, const Costs& costs,
                             const std::vector<Strategy>& list) {
    const auto stages = std::ssize(best.plan.partition);
    for (bool moved = true; moved && stages > 1;) {
      moved = false;
      const auto busy = [&](const StageView& stage) { return stage.compute + stage.exchange + stage.exposed; };
      const int64_t worst = std::ranges::max_element(best.stages, {}, busy) - best.stages.begin();
      for (int64_t to = 0; to < stages && !moved; ++to) {
        if (to == worst || best.plan.partition[worst] < 2) continue;
        Plan plan = best.plan;
        --plan.partition[worst];
        ++plan.partition[to];
        if (!fill(plan, cost, costs, list)) continue;
        JudgedPlan judged = judge_plan(model_, cluster_, query_.repairs, plan);
        if (judged.plan.predicted.step_ms < best.plan.predicted.step_ms * (1 - 1e-9)) {
          best = std::move(judged);
          moved = true;
        }
      }
    }
    return best;
  }

  void offer(const Plan& plan) {
    JudgedPlan judged = judge_plan(model_, cluster_, query_.repairs, plan);
    judged.even_step_ms = judged.plan.predicted.step_ms;
    const auto& memory = judged.plan.predicted.memory_mb;
    const auto fullest = std::ranges::max_element(memory);
    if (*fullest <= static_cast<double>(budget_)) return keep(std::move(judged));
    ++result_.cut_by_memory;
    if (*fullest < result_.least_mb) {
      result_.least_mb = *fullest;
      result_.binding_stage = fullest - memory.begin();
    }
  }

  /// Two plans of the same stages, micro-batches and layers differ in their ends alone: the better stays.
  void keep(JudgedPlan judged) {
    auto& plans = result_.plans;
    const double step = judged.plan.predicted.step_ms;
    for (JudgedPlan& other : plans) {
      if (other.plan.partition != judged.plan.partition || other.plan.micro_batches != judged.plan.micro_batches ||
          other.plan.layers != judged.plan.layers) {
        continue;
      }
      if (step < other.plan.predicted.step_ms) other = std::move(judged);
      std::ranges::stable_sort(plans, {}, [](const JudgedPlan& p) { return p.plan.predicted.step_ms; });
      return;
    }
    plans.push_back(std::move(judged));
    std::ranges::stable_sort(plans, {}, [](const JudgedPlan& p) { return p.plan.predicted.step_ms; });
    if (std::ssize(plans) > query_.top) plans.pop_back();
  }

  /// The part of the slowest stage that grew most against the best plan.
  void explain() {
    if (result_.plans.empty()) return;
    const auto slowest = [](const JudgedPlan& p) -> const StageView& {
      return *std::ranges::max_element(p.stages, {},
                                       [](const StageView& s) { return s.compute + s.exchange + s.exposed; });
    };
    const StageView best = slowest(result_.plans.front());
    for (size_t i = 1; i < result_.plans.size(); ++i) {
      const StageView& view = slowest(result_.plans[i]);
      const std::pair<double, const char*> parts[] = {
          {view.compute - best.compute, "compute"},
          {view.exchange - best.exchange, "tp and sp exchanges"},
          {view.exposed - best.exposed, "exposed weight and gradient traffic"},
          {view.bubble - best.bubble, "bubble"}};
      const auto& [more, what] = *std::max_element(std::begin(parts), std::end(parts),
                                                   [](const auto& a, const auto& b) { return a.first < b.first; });
      result_.plans[i].reason = fmt::format("{:.0f} ms more {}", std::max(0.0, more), what);
    }
  }

  const PlannedModel& model_;
  const Cluster& cluster_;
  const SearchQuery& query_;
  const std::vector<int64_t> types_;
  const int64_t budget_;
  SearchResult result_;
};

}  // namespace

JudgedPlan judge_plan(const PlannedModel& model, const Cluster& cluster, const Repairs& repairs, const Plan& plan) {
  const CostModel cost(model, cluster, repairs, plan.global_batch, plan.micro_batches);
  const std::vector<int64_t> types = types_of(model);
  if (types.size() != plan.layers.size()) {
    throw BadInput("the plan has {} layers, the model {}", plan.layers.size(), types.size());
  }
  const auto stages = std::ssize(plan.partition);
  const auto k = static_cast<double>(plan.micro_batches);
  const Strategy end = end_strategy(plan);
  JudgedPlan out{.plan = plan, .stages = std::vector<StageView>(stages), .even_step_ms = 0, .reason = {}};
  PipelineTimes times{
      .schedule = plan.schedule, .micro_batches = plan.micro_batches, .forward = {}, .backward = {}, .p2p = {}};
  std::vector<double> sync(stages, 0);
  size_t layer = 0;
  for (int64_t stage = 0; stage < stages; ++stage) {
    StageView& view = out.stages[stage];
    double forward = 0, backward = 0, buffer = 0;
    const auto held = static_cast<double>(held_micro_batches(plan.schedule, stages, stage, plan.micro_batches));
    const auto add = [&](const LayerWork& work, MemoryView memory) {
      const double f = cost.forward_ms(work), b = cost.backward_ms(work);
      forward += f;
      backward += b;
      sync[stage] += cost.exposed_sync_ms(work);
      view.compute += k * (work.forward + work.backward);
      view.exchange += k * (work.exchange_forward + work.exchange_backward);
      view.exposed += k * (f + b - work.forward - work.backward - work.exchange_forward - work.exchange_backward);
      memory.activations *= held;
      view.memory += memory;
    };
    if (stage == 0) add(cost.end_work(model.embed, end), cost.end_memory(model.embed, end));
    for (int64_t i = 0; i < plan.partition[stage]; ++i, ++layer) {
      const auto type = static_cast<size_t>(types[layer]);
      const Strategy& s = plan.layers[layer];
      add(cost.layer_work(type, s), cost.layer_memory(type, s));
      buffer = std::max(buffer, gather_buffer_mb(cost, type, s));
      if (i > 0) {
        const double change = cost.transition_ms(type, plan.layers[layer - 1], s);
        forward += change / 2;
        backward += change / 2;
        view.exchange += k * change;
      }
    }
    if (stage == stages - 1) add(cost.end_work(model.head, end), cost.end_memory(model.head, end));
    view.memory.buffers += buffer;
    view.exposed += sync[stage];
    times.forward.push_back(forward);
    times.backward.push_back(backward);
    if (stage + 1 < stages) times.p2p.push_back(cost.border_ms(plan.layers[layer - 1]));
    out.plan.predicted.memory_mb.resize(stage);
    out.plan.predicted.memory_mb.push_back(view.memory.total());
  }
  const PipelineRun run = play_pipeline(times);
  double step = 0, exposed = 0;
  for (int64_t stage = 0; stage < stages; ++stage) step = std::max(step, run.end[stage] + sync[stage]);
  for (int64_t stage = 0; stage < stages; ++stage) {
    StageView& view = out.stages[stage];
    view.bubble = std::max(0.0, step - k * (times.forward[stage] + times.backward[stage]) - sync[stage]);
    exposed = std::max(exposed, view.exchange + view.exposed);
  }
  out.plan.predicted.step_ms = step;
  out.plan.predicted.exposed_communication_ms = exposed;
  return out;
}

std::vector<JudgedPlan> uniform_plans(const PlannedModel& model, const Cluster& cluster, const SearchQuery& query) {
  return Searcher(model, cluster, query).uniform();
}

SearchResult search_plans(const PlannedModel& model, const Cluster& cluster, const SearchQuery& query) {
  return Searcher(model, cluster, query).run();
}

}  // namespace unigrpo::planner
