#pragma once

#include <map>
#include <span>
#include <string>
#include <utility>

#include "runtime/stateful.h"

namespace unigrpo::grpo {

/// Mean and standard deviation of numbers that come a step at a time, the earlier ones fading: after a step with values
/// v, mean <- d mean + (1 - d) mean(v), the same for the mean square. The first step sets both. One pair a key. Kept as
/// the variance, whose digits a large mean does not take away: numbers that never change have none.
class RunningStatistics : public Stateful {
 public:
  struct Moments {
    double mean = 0, variance = 0;
    double std() const;
  };

  RunningStatistics() = default;
  /// `name`: of its part of a checkpoint.
  explicit RunningStatistics(std::string name) : name_(std::move(name)) {}

  /// Takes a step's values in and returns what then holds. `decay` in [0, 1): what stays of the earlier steps.
  /// `values` is not empty.
  Moments observe(const std::string& key, std::span<const double> values, double decay);

  /// float64 [2] a key; a resumed run goes on with the same numbers.
  State state() const override;
  /// Throws BadInput `where: ...` for tensors that are not such.
  void load_state(const State& state, const std::string& where) override;
  std::string name() const override { return name_; }

 private:
  std::string name_ = "reward_statistics";
  std::map<std::string, Moments> moments_;
};

}  // namespace unigrpo::grpo
