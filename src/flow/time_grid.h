#pragma once

#include <cstdint>
#include <vector>

#include "flow/config.h"

namespace unigrpo::flow {

/// The direction of time, here and everywhere: t = 1 is noise, t = 0 is data;
///
///   x_t = (1 - t) x_0 + t eps,    v = dx/dt = eps - x_0
///
/// so sampling walks from t = 1 down to t = 0, and a step's t' - t is negative.

/// The grid t_0 = 1 > t_1 > ... > t_N = 0 of N denoising steps, in float64.
///
///   u_i = 1 - i / N,    t_i = s u_i / (1 + (s - 1) u_i)
///
/// A shift s above 1 spends more steps near the noise. (BAGEL's `num_timesteps` counts grid points,
/// so its 50 is N = 49 here.) Throws std::invalid_argument unless N >= 1 and s > 0.
std::vector<double> time_grid(int64_t num_steps, double shift);

/// Steps first .. last-1 are stochastic (SDE) and trained; the others are ODE steps.
struct SdeWindow {
  int64_t first = 0;
  int64_t last = 0;  // exclusive

  bool contains(int64_t step) const { return step >= first && step < last; }
  int64_t width() const { return last - first; }
};

/// What a window may depend on: the same for all samples of a prompt group, on any rank.
struct WindowRequest {
  SdeKind kind = SdeKind::flow_sde;
  int64_t num_steps = 0;  // N
  uint64_t seed = 0;      // of the run
  uint64_t step = 0;      // of the run, from 1
  uint64_t prompt = 0;    // index of the group's prompt in the data
  uint64_t segment = 0;   // index in the program
};

/// Chooses the window of one prompt group.
///   all      every step that may be stochastic
///   fixed    [first, first + width)
///   random   a place in [first, last) drawn uniformly per run step, prompt and segment
///   sliding  moves through [first, last) by one every `shift_interval` run steps, and starts over; every place is held
///            for as many steps
/// Throws BadInput naming the keys where the window does not fit (rules.h).
SdeWindow choose_window(const WindowConfig& config, const WindowRequest& request);

}  // namespace unigrpo::flow
