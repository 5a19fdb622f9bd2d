#include "planner/simulate.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>

namespace unigrpo::planner {
namespace {

struct StageWork {
  std::vector<LayerWork> layers;  // embeddings and head among them
  double transitions = 0;         // forward and backward together
};

/// Gathers of layer i + 1 run beside the compute of layer i; exchanges are waited for and stand in the compute stream's
/// time; the reduction of a layer's gradients follows its backward.
TwoStreams play_pass(const StageWork& work, bool forward, bool last, double overlap) {
  std::vector<StreamPiece> compute, traffic;
  const auto count = std::ssize(work.layers);
  std::vector<int64_t> gathered(count, -1);
  const auto layer_at = [&](int64_t i) -> const LayerWork& { return work.layers[forward ? i : count - 1 - i]; };
  const auto gather = [&](int64_t i) {
    if (i >= count || layer_at(i).gather == 0) return;
    gathered[i] = std::ssize(traffic);
    traffic.push_back({layer_at(i).gather, i - 2});  // its buffer is that of the layer two before
  };
  gather(0);
  for (int64_t i = 0; i < count; ++i) {
    const LayerWork& layer = layer_at(i);
    gather(i + 1);
    const double exchange = forward ? layer.exchange_forward : layer.exchange_backward;
    compute.push_back({(forward ? layer.forward : layer.backward) + exchange, gathered[i]});
    const double reduce = forward ? 0 : layer.reduce + (last ? layer.sync : 0);
    if (reduce > 0) traffic.push_back({reduce, i});
  }
  if (!compute.empty()) compute.back().ms += work.transitions / 2;
  return play_streams(compute, traffic, overlap);
}

}  // namespace

TwoStreams play_streams(const std::vector<StreamPiece>& compute, const std::vector<StreamPiece>& traffic,
                        double overlap) {
  const std::vector<StreamPiece>* pieces[2] = {&compute, &traffic};
  TwoStreams out;
  std::vector<std::pair<double, double>>* spans[2] = {&out.compute, &out.traffic};
  size_t at[2] = {0, 0};
  double left[2] = {-1, -1}, now = 0;  // of the running piece; -1: none runs
  while (at[0] < compute.size() || at[1] < traffic.size()) {
    for (const int side : {0, 1}) {
      if (left[side] >= 0 || at[side] >= pieces[side]->size()) continue;
      const StreamPiece& piece = (*pieces[side])[at[side]];
      if (piece.needs < static_cast<int64_t>(at[1 - side])) {
        left[side] = piece.ms;
        spans[side]->push_back({now, now});
      }
    }
    const bool both = left[0] >= 0 && left[1] >= 0;
    if (left[0] < 0 && left[1] < 0) break;  // each waits for the other: not with pieces in their order
    const double slow = both ? overlap : 1;
    double step = std::numeric_limits<double>::infinity();
    for (const int side : {0, 1}) {
      if (left[side] >= 0) step = std::min(step, left[side] * slow);
    }
    now += step;
    for (const int side : {0, 1}) {
      if (left[side] < 0) continue;
      left[side] -= step / slow;
      if (left[side] <= 1e-12 * (1 + now)) {
        spans[side]->back().second = now;
        left[side] = -1;
        ++at[side];
      }
    }
  }
  out.end = now;
  return out;
}

Simulation simulate_plan(const PlannedModel& model, const Cluster& cluster, const Repairs& repairs, const Plan& plan) {
  const JudgedPlan judged = judge_plan(model, cluster, repairs, plan);
  const CostModel cost(model, cluster, repairs, plan.global_batch, plan.micro_batches);
  const auto stages = std::ssize(plan.partition);
  const Strategy end{.pp = stages,
                     .tp = plan.embed.tp,
                     .sp = plan.embed.sp,
                     .dp = plan.world / stages / plan.embed.tp / plan.embed.sp,
                     .zero = plan.embed.zero,
                     .recompute = false};
  std::vector<int64_t> types;
  for (size_t type = 0; type < model.layers.size(); ++type)
    types.insert(types.end(), model.layers[type].count, static_cast<int64_t>(type));
  std::vector<StageWork> work(stages);
  PipelineTimes times{
      .schedule = plan.schedule, .micro_batches = plan.micro_batches, .forward = {}, .backward = {}, .p2p = {}};
  std::vector<TwoStreams> forward(stages), backward(stages), last(stages);
  size_t layer = 0;
  for (int64_t stage = 0; stage < stages; ++stage) {
    if (stage == 0) work[stage].layers.push_back(cost.end_work(model.embed, end));
    for (int64_t i = 0; i < plan.partition[stage]; ++i, ++layer) {
      work[stage].layers.push_back(cost.layer_work(types[layer], plan.layers[layer]));
      if (i > 0)
        work[stage].transitions += cost.transition_ms(types[layer], plan.layers[layer - 1], plan.layers[layer]);
    }
    if (stage == stages - 1) work[stage].layers.push_back(cost.end_work(model.head, end));
    forward[stage] = play_pass(work[stage], true, false, model.overlap);
    backward[stage] = play_pass(work[stage], false, false, model.overlap);
    last[stage] = play_pass(work[stage], false, true, model.overlap);
    times.forward.push_back(forward[stage].end);
    times.backward.push_back(backward[stage].end);
    if (stage + 1 < stages) times.p2p.push_back(cost.border_ms(plan.layers[layer - 1]));
  }
  std::vector<PipelineEvent> pipeline;
  play_pipeline(times, &pipeline);

  Simulation out;
  out.stages.resize(stages);
  for (const PipelineEvent& event : pipeline) {
    const bool final = !event.forward && event.micro_batch == plan.micro_batches - 1;
    const TwoStreams& pass = event.forward ? forward[event.stage] : final ? last[event.stage] : backward[event.stage];
    SimulatedStage& stage = out.stages[event.stage];
    const std::string name = fmt::format("{} {}", event.forward ? "forward" : "backward", event.micro_batch);
    double busy = 0;
    for (const auto& [from, to] : pass.compute) busy += to - from;
    stage.busy += busy;
    stage.exposed += pass.end - busy;
    // One bar a pass and stream; gaps within one show in the shares.
    out.events.push_back({event.stage, Lane::compute, name, event.start, event.start + pass.end});
    for (const auto& [from, to] : pass.traffic) {
      out.events.push_back({event.stage, Lane::communication, event.forward ? "gather" : "gather, reduce",
                            event.start + from, event.start + to});
    }
    out.step_ms = std::max(out.step_ms, event.start + pass.end);
  }
  for (int64_t stage = 0; stage < stages; ++stage) {
    SimulatedStage& one = out.stages[stage];
    one.busy /= out.step_ms;
    one.exposed /= out.step_ms;
    one.idle = 1 - one.busy - one.exposed;
    one.peak_mb = judged.plan.predicted.memory_mb[stage];
  }
  return out;
}

nlohmann::json chrome_trace(const Simulation& simulation) {
  nlohmann::json events = nlohmann::json::array();
  for (size_t stage = 0; stage < simulation.stages.size(); ++stage) {
    events.push_back(
        {{"ph", "M"}, {"pid", stage}, {"name", "process_name"}, {"args", {{"name", fmt::format("stage {}", stage)}}}});
    for (const Lane lane : {Lane::compute, Lane::communication}) {
      events.push_back({{"ph", "M"},
                        {"pid", stage},
                        {"tid", static_cast<int>(lane)},
                        {"name", "thread_name"},
                        {"args", {{"name", std::string(enum_name(lane))}}}});
    }
  }
  for (const SimulatedEvent& event : simulation.events) {
    events.push_back({{"ph", "X"},
                      {"pid", event.stage},
                      {"tid", static_cast<int>(event.lane)},
                      {"name", event.name},
                      {"ts", event.start * 1000},
                      {"dur", (event.end - event.start) * 1000}});
  }
  return {{"traceEvents", std::move(events)}, {"displayTimeUnit", "ms"}};
}

}  // namespace unigrpo::planner
