#pragma once

#include <cstdint>
#include <string>

#include "optim/config.h"
#include "optim/parameters.h"
#include "runtime/runtime.h"
#include "runtime/stateful.h"

namespace unigrpo::parallel {
class ShardedModel;
}

namespace unigrpo::optim {

/// The gradients' global norm and what it asks for.
struct GradNorm {
  double norm = 0;   // before clipping; not finite where the step is to be skipped
  double scale = 1;  // for AdamW::step, min(1, max_grad_norm / (norm + 1e-6))
  bool skip = false;
  std::string nonfinite;  // first parameter with a gradient that is not finite
};

/// Measures and judges gradients before a step.
class GradClip : public Stateful {
 public:
  explicit GradClip(const OptimConfig& config) : config_(config) {}

  /// Global L2 norm over all gradients, accumulated in double and in one order whatever the thread count. The
  /// gradients stay as they are. A norm that is not finite, on any rank, asks to skip the step and counts; throws
  /// RuntimeFailure, naming the parameter, with `on_nonfinite = stop` or after `max_skipped` in a row.
  /// `sharded`: what the pieces among the parameters are of. Fault point: grad.reduced (nan goes into the first
  /// gradient).
  GradNorm check(const NamedParameters& parameters, const Runtime& runtime = {},
                 const parallel::ShardedModel* sharded = nullptr);

  int64_t skipped() const { return skipped_; }
  int64_t skipped_in_a_row() const { return skipped_in_a_row_; }
  State state() const override;
  void load_state(const State& state, const std::string& where) override;
  std::string name() const override { return "grad_clip"; }

 private:
  OptimConfig config_;
  int64_t skipped_ = 0;
  int64_t skipped_in_a_row_ = 0;
};

}  // namespace unigrpo::optim
