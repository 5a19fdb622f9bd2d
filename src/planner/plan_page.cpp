#include "planner/plan_page.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <string_view>

#include "base/error.h"

extern const char* const unigrpo_plan_template;  // plan_template.html, embedded at build

namespace unigrpo::planner {
namespace {

using nlohmann::json;

constexpr size_t kMaxEvents = 20'000;  // of the time line; more would be thinner than a pixel

json page_data(const std::string& title, const Cluster& cluster, const SearchResult& result,
               const Simulation& simulation) {
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
    const MemoryView& memory = stage.memory;
    stages.push_back({{"compute", stage.compute},
                      {"exchange", stage.exchange},
                      {"exposed", stage.exposed},
                      {"bubble", stage.bubble},
                      {"weights", memory.weights},
                      {"gradients", memory.gradients},
                      {"moments", memory.moments},
                      {"activations", memory.activations},
                      {"buffers", memory.buffers}});
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
          {"events", std::move(events)}};
}

}  // namespace

std::string plan_page(const std::string& title, const Cluster& cluster, const SearchResult& result,
                      const Simulation& simulation) {
  constexpr std::string_view kPlaceholder = "@DATA@";
  const std::string_view page = unigrpo_plan_template;
  const size_t place = page.find(kPlaceholder);
  if (place == std::string_view::npos) throw RuntimeFailure("plan_template.html has no {}", kPlaceholder);
  std::string out(page.substr(0, place));
  // No "<", so that no text in it can close the script element.
  for (const char c :
       page_data(title, cluster, result, simulation).dump(-1, ' ', false, json::error_handler_t::replace)) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out.append(page.substr(place + kPlaceholder.size()));
}

}  // namespace unigrpo::planner
