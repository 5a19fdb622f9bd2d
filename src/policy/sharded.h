#pragma once

#include <cstdint>
#include <exception>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/signals.h"
#include "parallel/config.h"
#include "parallel/groups.h"
#include "parallel/sharded_model.h"
#include "policy/policy.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// Spreads a policy's weights, gradients and their like over the runtime's ranks as the config says; in one process
/// only where sums are to have the bits of several. All ranks have the same policy. Throws BadInput where it cannot
/// generate as the config says.
void shard(UnifiedPolicy& policy, const parallel::ParallelConfig& config, const Runtime& runtime);

/// The ranks of those groups that hold a model of so many layers, or their stage of it, between them.
parallel::ShardedModel::Ranks ranks_of(const parallel::Groups& groups, size_t num_layers);
/// Cuts what of the units is sliced, along these dimensions by name, among each unit's ranks.
void cut_units(std::vector<NamedTensors>& units, const std::map<std::string, int64_t>& dimensions,
               const std::vector<parallel::ShardedModel::SliceRanks>& ranks);

/// While it lives, all ranks have all weights, whole or of what is sliced their own slices, for what is no pass:
/// rollouts, exports. All ranks make and drop it alike.
class Gathered {
 public:
  using Form = parallel::ShardedModel::Form;
  /// What generation by the policy needs.
  static Form for_rollout(const UnifiedPolicy& policy) {
    return policy.sharded() ? policy.sharded()->rollout_form() : Form::whole;
  }
  explicit Gathered(const UnifiedPolicy& policy, Form form = Form::whole) : Gathered(policy.sharded(), form) {}
  explicit Gathered(parallel::ShardedModel* model, Form form = Form::whole) : model_(model), form_(form) {
    if (model_) model_->hold(form_);
  }
  ~Gathered() {
    if (model_) model_->let_go(form_);
  }
  Gathered(const Gathered&) = delete;
  Gathered& operator=(const Gathered&) = delete;

 private:
  parallel::ShardedModel* model_;
  Form form_;
};

/// What runs between a pass' beginning and its end. Where it throws Interrupted, the other ranks have the whole pass.
template <typename Work>
void in_pass_of(parallel::ShardedModel& model, const Work& work) {
  std::exception_ptr interrupted;
  try {
    work();
  } catch (const Interrupted&) {
    interrupted = std::current_exception();
  }
  model.end();
  if (interrupted) std::rethrow_exception(interrupted);
}

/// A packed forward, its backward with it or not, in which sharded weights are gathered as they are needed. All ranks
/// make the same passes; `work` may do nothing.
template <typename Work>
void in_pass(const UnifiedPolicy& policy, bool with_backward, const Work& work) {
  parallel::ShardedModel* model = policy.sharded();
  if (!model) return work();
  model->begin(with_backward);
  in_pass_of(*model, work);
}

/// The backward of an earlier forward, which was a pass without.
template <typename Work>
void in_backward(const UnifiedPolicy& policy, const Work& work) {
  policy.sharded()->begin_backward();
  in_pass_of(*policy.sharded(), work);
}

/// The parameters that move: those that require a gradient, of which this rank may hold a piece.
NamedTensors trained_parameters(const UnifiedPolicy& policy);

}  // namespace unigrpo::policy
