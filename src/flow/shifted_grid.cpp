#include "flow/shifted_grid.h"

#include <fmt/format.h>

#include <cmath>
#include <stdexcept>

namespace unigrpo::flow {

double shift_exponent(const ShiftedGrid& grid, int64_t num_tokens) {
  const double slope = (grid.max_shift - grid.base_shift) / static_cast<double>(grid.max_tokens - grid.base_tokens);
  return grid.base_shift + slope * static_cast<double>(num_tokens - grid.base_tokens);
}

std::vector<double> shifted_grid(const ShiftedGrid& grid, int64_t num_steps, int64_t num_tokens) {
  const bool terminal_fits = !grid.terminal || (*grid.terminal > 0 && *grid.terminal < 1);
  if (num_steps < 1 || num_tokens < 1 || !(grid.shift > 0) || grid.max_tokens == grid.base_tokens || !terminal_fits) {
    throw std::invalid_argument(
        fmt::format("shifted_grid: {} steps, {} tokens, shift {}", num_steps, num_tokens, grid.shift));
  }
  const double factor = grid.dynamic ? std::exp(shift_exponent(grid, num_tokens)) : grid.shift;
  const auto n = static_cast<double>(num_steps);
  std::vector<double> sigmas;
  for (int64_t i = 0; i < num_steps; ++i) {
    const double u = num_steps == 1 ? 1.0 : 1.0 - static_cast<double>(i) * (1.0 - 1.0 / n) / (n - 1.0);
    sigmas.push_back(factor / (factor + 1.0 / u - 1.0));
  }
  // A single step starts at 1 and has nothing to stretch.
  if (grid.terminal && num_steps > 1) {
    const double stretch = (1.0 - *grid.terminal) / (1.0 - sigmas.back());
    for (double& sigma : sigmas) sigma = 1.0 - (1.0 - sigma) * stretch;
  }
  sigmas.front() = 1.0;  // which rounding may have passed
  sigmas.push_back(0.0);
  return sigmas;
}

}  // namespace unigrpo::flow
