#include "flow/time_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "base/rng.h"

namespace unigrpo::flow {

std::vector<double> time_grid(int64_t num_steps, double shift) {
  if (num_steps < 1 || !(shift > 0)) {
    throw std::invalid_argument(
        fmt::format("a time grid needs 1 step or more and a shift above 0, got {} and {}", num_steps, shift));
  }
  std::vector<double> grid(static_cast<size_t>(num_steps) + 1);
  for (int64_t i = 0; i <= num_steps; ++i) {
    const double u = static_cast<double>(num_steps - i) / static_cast<double>(num_steps);
    grid[static_cast<size_t>(i)] = shift * u / (1 + (shift - 1) * u);
  }
  return grid;
}

int64_t num_stochastic_steps(SdeKind kind, int64_t num_steps) {
  return kind == SdeKind::cps ? num_steps - 1 : num_steps;
}

SdeWindow choose_window(const WindowConfig& config, const WindowRequest& request) {
  const int64_t available = num_stochastic_steps(request.kind, request.num_steps);
  if (available < 1) {
    throw BadInput("rollout.num_steps: {} step(s) of {} leave none that could be stochastic", request.num_steps,
                   enum_name(request.kind));
  }
  if (config.mode == WindowMode::all) return {0, available};

  const bool moves = config.mode != WindowMode::fixed;
  const int64_t end = moves && config.last >= 0 ? std::min(config.last, available) : available;
  const int64_t num_places = end - config.first - config.width + 1;
  if (config.width < 1 || config.first < 0 || num_places < 1) {
    throw BadInput(
        "rollout.window: a window of width {} from step {} does not fit before step {} (of {} "
        "denoising steps, {} can be stochastic)",
        config.width, config.first, end, request.num_steps, available);
  }

  int64_t first = config.first;
  if (config.mode == WindowMode::random) {
    RandomStream stream({.seed = request.seed,
                         .step = request.step,
                         .prompt = request.prompt,
                         .sample = 0,  // one window a group
                         .segment = request.segment,
                         .purpose = Purpose::sde_window});
    first += static_cast<int64_t>(stream.below(static_cast<uint64_t>(num_places)));
  } else if (config.mode == WindowMode::sliding) {
    const auto stride = static_cast<uint64_t>(std::max<int64_t>(1, config.stride));
    first += static_cast<int64_t>(request.step / stride % static_cast<uint64_t>(num_places));
  }
  return {first, first + config.width};
}

}  // namespace unigrpo::flow
