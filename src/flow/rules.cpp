#include "flow/rules.h"

#include <fmt/format.h>

#include <algorithm>

namespace unigrpo::flow {

int64_t num_stochastic_steps(SdeKind kind, int64_t num_steps) {
  return kind == SdeKind::cps ? num_steps - 1 : num_steps;
}

WindowPlaces window_places(const WindowConfig& config, SdeKind kind, int64_t num_steps) {
  const int64_t available = num_stochastic_steps(kind, num_steps);
  if (config.mode == WindowMode::all) return {.first = 0, .width = available, .num_places = available > 0 ? 1 : 0};
  const bool moves = config.mode != WindowMode::fixed;
  const int64_t end = moves && config.last >= 0 ? std::min(config.last, available) : available;
  const int64_t places = config.width < 1 || config.first < 0 ? 0 : end - config.first - config.width + 1;
  return {.first = config.first, .width = config.width, .num_places = moves ? places : std::min<int64_t>(places, 1)};
}

std::optional<Conflict> validate(const SdeConfig& config) {
  if (config.kind != SdeKind::cps || config.noise_level <= 1) return {};
  return Conflict{{"rollout.sde.noise_level", "rollout.sde.kind"},
                  fmt::format("expected at most 1 with rollout.sde.kind = \"cps\", got {}", config.noise_level)};
}

std::optional<Conflict> validate(const WindowConfig& config, SdeKind kind, int64_t num_steps) {
  const int64_t available = num_stochastic_steps(kind, num_steps);
  if (available < 1) {  // so it would never be trained
    return Conflict{
        {"rollout.num_steps", "rollout.sde.kind"},
        fmt::format("expected at least 2 with rollout.sde.kind = \"{}\" (its last step has no noise), got {}",
                    enum_name(kind), num_steps)};
  }
  const bool moves = config.mode == WindowMode::random || config.mode == WindowMode::sliding;
  if (moves && config.last > num_steps) {
    return Conflict{{"rollout.window.last", "rollout.num_steps"},
                    fmt::format("expected at most rollout.num_steps = {}, got {}", num_steps, config.last)};
  }
  if (window_places(config, kind, num_steps).num_places > 0) {
    if (kind != SdeKind::flow_sde || num_steps > 1) return {};
    return Conflict{{"rollout.num_steps", "rollout.sde.kind"},
                    fmt::format("expected at least 2 with rollout.sde.kind = \"flow_sde\" (whose first step's noise "
                                "needs the time of the second), got {}",
                                num_steps)};
  }
  const bool to_the_end = !moves || config.last < 0 || config.last > available;
  const char* end = !to_the_end             ? "rollout.window.last"
                    : available < num_steps ? "rollout.num_steps - 1"
                                            : "rollout.num_steps";
  return Conflict{{"rollout.window.width", "rollout.window.first", "rollout.num_steps", "rollout.window.last"},
                  fmt::format("expected first + width of at most {} = {}, got {} + {}", end,
                              to_the_end ? available : config.last, config.first, config.width)};
}

}  // namespace unigrpo::flow
