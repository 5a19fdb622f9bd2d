#pragma once

#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "optim/config.h"
#include "optim/parameters.h"
#include "runtime/stateful.h"

namespace unigrpo::optim {

/// An exponential moving average of the trained parameters, kept in float32.
///
///   average <- average + (1 - d) (value - average),   d = min(decay, (1 + n) / (10 + n)) at update n = 0, 1, ...
///
/// so that a short run's average forgets its start.
class Ema : public Stateful {
 public:
  /// Starts from `values` (float32 or bf16, contiguous); holds nothing where `config` has it off.
  Ema(const EmaConfig& config, const NamedParameters& values);

  /// Takes in new values: the same names and shapes in the same order as at the start. For bf16 parameters
  /// hand in AdamW::masters(), which holds what bf16 rounds away. Throws std::invalid_argument otherwise.
  void update(const NamedParameters& values);

  int64_t num_updates() const { return num_updates_; }
  /// The averages under their parameters' names, sharing memory with this object.
  const NamedParameters& averages() const { return averages_; }
  /// The averages, and `num_updates`.
  State state() const override;
  /// Takes over saved averages bit for bit; throws BadInput naming `where` and the tensor that does not fit.
  void load_state(const State& state, const std::string& where) override;
  std::string name() const override { return "ema"; }

 private:
  double decay_ = 0;
  NamedParameters averages_;
  int64_t num_updates_ = 0;
};

/// While it lives, the parameters hold the averages, rounded to their dtype; then their own values, to the bit.
/// `wrote`: called each time that they have changed.
class EmaScope {
 public:
  /// `parameters`: what `ema` was made from, in the same order.
  EmaScope(const Ema& ema, const NamedParameters& parameters, std::function<void()> wrote = [] {});
  ~EmaScope();
  EmaScope(const EmaScope&) = delete;
  EmaScope& operator=(const EmaScope&) = delete;

 private:
  NamedParameters parameters_;
  std::vector<at::Tensor> own_values_;
  std::function<void()> wrote_;
};

}  // namespace unigrpo::optim
