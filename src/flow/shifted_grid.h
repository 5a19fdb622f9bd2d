#pragma once

#include <cstdint>
#include <optional>
#include <vector>

namespace unigrpo::flow {

/// A grid whose shift grows with the number of tokens (SD3's exponential shift, arXiv 2403.03206; in diffusers 0.42.1
/// FlowMatchEulerDiscreteScheduler with use_dynamic_shifting).
struct ShiftedGrid {
  bool dynamic = true;  // else by `shift` alone
  double shift = 1.0;
  double base_shift = 0.95, max_shift = 2.05;     // mu at base_tokens and at max_tokens,
  int64_t base_tokens = 1024, max_tokens = 4096;  // a line through both that goes on beyond
  std::optional<double> terminal = 0.1;           // what the last sigma above 0 is stretched to

  /// Whether sigmas that are given would come out changed.
  bool changes() const { return dynamic || shift != 1.0 || terminal.has_value(); }
};

/// The exponent of the shift for so many tokens.
double shift_exponent(const ShiftedGrid& grid, int64_t num_tokens);

/// t_0 = 1 > ... > t_N = 0 of N steps, in float64:
///
///   u_i = 1 - i (1 - 1/N) / (N - 1) from 1 to 1/N,    s_i = e^mu / (e^mu + 1 / u_i - 1)
///   t_i = 1 - (1 - s_i) (1 - terminal) / (1 - s_{N-1}),    t_N = 0
///
/// Throws std::invalid_argument unless num_steps >= 1, num_tokens >= 1 and the shifts are what they can be.
std::vector<double> shifted_grid(const ShiftedGrid& grid, int64_t num_steps, int64_t num_tokens);

/// What LTX-2's distilled models walk, as they are: both stages, the second after the upsampler.
inline constexpr double kDistilledSigmas[] = {1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0};
inline constexpr double kDistilledSecondStage[] = {0.909375, 0.725, 0.421875, 0.0};

}  // namespace unigrpo::flow
