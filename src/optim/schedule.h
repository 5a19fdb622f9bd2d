#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string>

#include "optim/config.h"
#include "runtime/stateful.h"

namespace unigrpo::optim {

/// What multiplies every learning rate at `step` (from 0) of `num_steps`, in [0, 1].
///
///   warm-up   (step + 1) / warmup_steps                 while step < warmup_steps
///   then, with p = (step - warmup_steps) / (num_steps - warmup_steps) up to 1:
///   constant  1        linear  1 - p        cosine  (1 + cos(pi p)) / 2
inline double lr_factor(const OptimConfig& config, int64_t step, int64_t num_steps) {
  if (step < config.warmup_steps) {
    return static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  const int64_t length = std::max<int64_t>(1, num_steps - config.warmup_steps);
  const double progress = std::min(1.0, static_cast<double>(step - config.warmup_steps) / static_cast<double>(length));
  switch (config.schedule) {
    case Schedule::constant:
      return 1.0;
    case Schedule::linear:
      return 1.0 - progress;
    case Schedule::cosine:
      return 0.5 * (1.0 + std::cos(std::numbers::pi * progress));
  }
  return 1.0;
}

/// The schedule of a run, whose length stays what it was when the run began: a run that goes on for more steps has the
/// same learning rates up to there.
class RunSchedule : public Stateful {
 public:
  RunSchedule(const OptimConfig& config, int64_t num_steps)
      : config_(config), num_steps_(num_steps), length_(asked_length()) {}

  double factor(int64_t step) const { return lr_factor(config_, step, length_); }

  std::string name() const override { return "schedule"; }
  /// Nothing where the length does not matter.
  State state() const override;
  void load_state(const State& state, const std::string& where) override;

  /// What a resumed run should be told at `step` (from 0): that its schedule is not the one that run.num_steps would
  /// have it be, or not the one that it had before; empty where there is nothing to tell.
  std::string describe_change(int64_t step) const;

 private:
  int64_t asked_length() const { return config_.schedule_steps > 0 ? config_.schedule_steps : num_steps_; }

  const OptimConfig& config_;
  const int64_t num_steps_;
  int64_t length_;
  int64_t length_before_ = 0;  // of the checkpoint; 0: none was loaded
};

}  // namespace unigrpo::optim
