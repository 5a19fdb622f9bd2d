#include "planner/plan_page.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"

extern const char* const unigrpo_plan_template;  // plan_template.html, embedded at build

namespace unigrpo::planner {
namespace {

using nlohmann::json;

constexpr size_t kMaxEvents = 20'000;  // of the time line; more would be thinner than a pixel

json memory_json(const MemoryView& memory) {
  return {memory.weights, memory.gradients, memory.accumulation, memory.moments, memory.activations, memory.buffers};
}

/// What one strategy for all layers takes: its degrees, step, and memory of the fullest stage.
json uniform_json(const std::vector<JudgedPlan>& uniform) {
  json out = json::array();
  for (const JudgedPlan& judged : uniform) {
    const Strategy& s = judged.plan.layers.front();
    const auto fullest =
        std::ranges::max_element(judged.stages, {}, [](const StageView& stage) { return stage.memory.total(); });
    out.push_back({{"pp", s.pp},
                   {"split", s.split() == 1 ? "1" : fmt::format("{} {}", s.sp > 1 ? "sp" : "tp", s.split())},
                   {"zero", s.zero},
                   {"recompute", s.recompute},
                   {"step_ms", judged.plan.predicted.step_ms},
                   {"stage", fullest - judged.stages.begin()},
                   {"memory", memory_json(fullest->memory)}});
  }
  return out;
}

json page_data(const std::string& title, const Cluster& cluster, const SearchResult& result,
               const std::vector<JudgedPlan>& uniform, const Simulation& simulation) {
  json plans = json::array(), stages = json::array(), events = json::array();
  for (const JudgedPlan& judged : result.plans) {
    plans.push_back({{"layers", layers_text(judged.plan)},
                     {"step_ms", judged.plan.predicted.step_ms},
                     {"even_step_ms", judged.even_step_ms},
                     {"global_batch", judged.plan.global_batch},
                     {"micro_batches", judged.plan.micro_batches},
                     {"partition", judged.plan.partition},
                     {"reason", judged.reason}});
  }
  for (const StageView& stage : result.plans.front().stages) {
    stages.push_back({{"compute", stage.compute},
                      {"exchange", stage.exchange},
                      {"exposed", stage.exposed},
                      {"bubble", stage.bubble},
                      {"memory", memory_json(stage.memory)}});
  }
  for (const SimulatedEvent& event : simulation.events) {
    if (events.size() == kMaxEvents) break;
    events.push_back({event.stage, static_cast<int>(event.lane), event.name, event.start, event.end});
  }
  return {{"name", title},
          {"world", cluster.world()},
          {"nodes", cluster.nodes},
          {"memory_gib", cluster.memory_gib},
          {"tried", result.tried},
          {"cut_by_time", result.cut_by_time},
          {"cut_by_memory", result.cut_by_memory},
          {"simulated_ms", simulation.step_ms},
          {"plans", std::move(plans)},
          {"stages", std::move(stages)},
          {"uniform", uniform_json(uniform)},
          {"events", std::move(events)}};
}

}  // namespace

std::string plan_page(const std::string& title, const Cluster& cluster, const SearchResult& result,
                      const std::vector<JudgedPlan>& uniform, const Simulation& simulation) {
  constexpr std::string_view kPlaceholder = "@DATA@";
  const std::string_view page = unigrpo_plan_template;
  const size_t place = page.find(kPlaceholder);
  if (place == std::string_view::npos) throw RuntimeFailure("plan_template.html has no {}", kPlaceholder);
  std::string out(page.substr(0, place));
  // No "<", so that no text in it can close the script element.
  for (const char c :
       page_data(title, cluster, result, uniform, simulation).dump(-1, ' ', false, json::error_handler_t::replace)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out.append(page.substr(place + kPlaceholder.size()));
}

}  // namespace unigrpo::planner
