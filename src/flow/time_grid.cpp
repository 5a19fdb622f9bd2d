#include "flow/time_grid.h"

#include <fmt/format.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "base/rng.h"
#include "flow/rules.h"

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

SdeWindow choose_window(const WindowConfig& config, const WindowRequest& request) {
  if (const auto conflict = validate(config, request.kind, request.num_steps)) {
    throw BadInput("{}: {}", conflict->keys.front(), conflict->message);
  }
  const auto [lowest, width, num_places] = window_places(config, request.kind, request.num_steps);
  int64_t first = lowest;
  if (config.mode == WindowMode::random) {
    RandomStream stream({.seed = request.seed,
                         .step = request.step,
                         .prompt = request.prompt,
                         .sample = 0,  // one window a group
                         .segment = request.segment,
                         .purpose = Purpose::sde_window});
    first += static_cast<int64_t>(stream.below(static_cast<uint64_t>(num_places)));
  } else if (config.mode == WindowMode::sliding) {
    const auto shift_interval = static_cast<uint64_t>(std::max<int64_t>(1, config.shift_interval));
    const uint64_t moves = (std::max<uint64_t>(request.step, 1) - 1) / shift_interval;
    first += static_cast<int64_t>(moves % static_cast<uint64_t>(num_places));
  }
  return {first, first + width};
}

}  // namespace unigrpo::flow
