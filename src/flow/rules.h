#pragma once

#include <cstdint>
#include <optional>

#include "base/conflict.h"
#include "flow/config.h"

namespace unigrpo::flow {

/// How many of the N steps, counted from the noise, may be stochastic: all, except that the last step of cps has std 0
/// (its t' is 0) and is an ODE step.
int64_t num_stochastic_steps(SdeKind kind, int64_t num_steps);

/// Where a window of `config` may begin, in a grid of N steps: at `first` and the `num_places` - 1 steps behind it.
struct WindowPlaces {
  int64_t first = 0;
  int64_t width = 0;
  int64_t num_places = 0;  // below 1: the window does not fit
};
WindowPlaces window_places(const WindowConfig& config, SdeKind kind, int64_t num_steps);

/// What is wrong with [rollout.sde].
std::optional<Conflict> validate(const SdeConfig& config);
/// What is wrong with [rollout.window] for images of N denoising steps.
std::optional<Conflict> validate(const WindowConfig& config, SdeKind kind, int64_t num_steps);

}  // namespace unigrpo::flow
