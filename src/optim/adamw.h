#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "optim/config.h"
#include "optim/parameters.h"
#include "runtime/stateful.h"

namespace unigrpo::optim {

/// What one step did.
struct StepStats {
  int64_t num_updated = 0;  // elements that had a gradient
  int64_t num_bf16 = 0;     // of these, elements of bf16 parameters
  int64_t num_lost = 0;     // of these, elements whose bf16 value did not follow its master's move

  /// Share of bf16 elements whose update is, for now, seen by the master alone; 0 without bf16.
  double lost_ratio() const {
    return num_bf16 == 0 ? 0.0 : static_cast<double>(num_lost) / static_cast<double>(num_bf16);
  }
};

/// A parameter group as it came out, for the log.
struct GroupSummary {
  std::string pattern;  // "" for what no pattern fits
  double lr = 0;
  double weight_decay = 0;
  int64_t num_parameters = 0;  // tensors
  int64_t num_elements = 0;
};

/// AdamW over a fixed list of parameters, with float32 masters for bf16 ones (a float32 parameter is its own).
///
/// The first group whose pattern fits a name gives its learning rate and weight decay, else `optim.lr` and
/// `optim.weight_decay`; tensors of fewer than two dimensions (norms, biases) are never decayed. Of pieces, the whole
/// tensor counts. A parameter without a gradient is left alone, its step count too. The bits of a step do not depend on
/// the number of threads. Source: arXiv 1711.05101, with the bias correction of torch.optim.AdamW.
class AdamW : public Stateful {
 public:
  /// Throws BadInput where a group's pattern fits no name or a name occurs twice, std::invalid_argument
  /// unless all tensors are contiguous float32 or bf16.
  AdamW(const OptimConfig& config, NamedParameters parameters);

  /// One update from the gradients, which autograd accumulates in float32 for bf16 parameters too. `lr_factor`: from
  /// the schedule; `grad_scale`: from clipping, multiplies the gradients as they are read. Fault points: optim.before,
  /// optim.after.
  StepStats step(double lr_factor, double grad_scale = 1.0);

  /// Drops all gradients.
  void zero_grad();

  const NamedParameters& parameters() const { return parameters_; }
  /// The float32 values that move: masters of bf16 parameters, the parameters themselves otherwise.
  NamedParameters masters() const;
  const std::vector<GroupSummary>& groups() const { return groups_; }
  /// Updates that moved anything, since this object was made.
  int64_t num_steps() const { return num_steps_; }
  /// The same since the run began: the most of any parameter.
  int64_t num_updates() const;

  /// "<name>.exp_avg", "<name>.exp_avg_sq", "<name>.master" (bf16 only) and "<name>.step" (int64 [1]), sharing
  /// memory with the optimizer.
  State state() const override;
  /// Takes over such a state bit for bit. Throws BadInput naming `where` and the tensor that does not fit.
  void load_state(const State& state, const std::string& where) override;
  std::string name() const override { return "optimizer"; }

 private:
  struct Slot {
    size_t group = 0;
    bool decays = true;
    at::Tensor exp_avg;     // float32
    at::Tensor exp_avg_sq;  // float32
    at::Tensor master;      // float32; undefined where the parameter is float32
    at::Tensor step;        // int64 [1], CPU
  };

  OptimConfig config_;
  NamedParameters parameters_;
  std::vector<GroupSummary> groups_;
  std::vector<Slot> slots_;
  int64_t num_steps_ = 0;
};

}  // namespace unigrpo::optim
