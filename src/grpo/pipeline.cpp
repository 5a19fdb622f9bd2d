#include "grpo/pipeline.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/fault.h"
#include "parallel/groups.h"
#include "parallel/pipeline_schedule.h"
#include "parallel/stage_links.h"
#include "policy/sharded.h"
#include "runtime/ranks.h"

namespace unigrpo::grpo {
namespace {

using parallel::StageAction;
using parallel::StageLinks;
using policy::StagedForward;

/// What a stage does in one forward.
struct StageOutput {
  at::Tensor in;   // of the stage before; undefined in the first
  at::Tensor out;  // of the own layers
};

/// Takes what the stage before sends, runs the own layers and sends what they give to the next one.
StageOutput run_stage(StagedForward& forward, StageLinks& links) {
  StageOutput output;
  if (!links.is_first()) output.in = links.from_previous();
  if (output.in.defined() && at::GradMode::is_enabled()) output.in.requires_grad_();
  output.out = forward.run(output.in);
  if (!links.is_last()) links.to_next(output.out.detach().contiguous());
  return output;
}

/// The micro-batches of one optimizer step on their way through this rank's stage.
class StageRun {
 public:
  StageRun(const Batch& batch, const MinibatchLoss& minibatch, const Minibatch& part, size_t turns)
      : batch_(batch),
        setup_(batch.setup),
        minibatch_(minibatch),
        rows_(part.micro_batches),
        compares_(needs_reference(batch.setup.config, batch.setup.rollout)),
        links_(*batch.setup.runtime.groups),
        under_way_(turns) {
    rows_.resize(turns);
  }

  /// In the order of the schedule. What the next action waits for is asked for before the one under way runs.
  void run(Numbers& numbers) {
    const auto actions = parallel::pipeline_schedule(setup_.runtime.groups->shape.schedule, links_.stages(),
                                                     links_.stage(), std::ssize(under_way_));
    if (!actions.empty()) prepare(actions.front());
    for (size_t i = 0; i < actions.size(); ++i) {
      if (i + 1 < actions.size()) prepare(actions[i + 1]);
      const auto m = static_cast<size_t>(actions[i].micro_batch);
      if (actions[i].forward) {
        forward(m, numbers);
      } else {
        backward(m);
      }
    }
    links_.finish();
  }

 private:
  struct MicroBatch {
    std::optional<PackedBatch> packed;  // nothing: this pipeline has none, and others do
    std::unique_ptr<StagedForward> own, reference;
    StageOutput output;
    at::Tensor loss;  // of the last stage
  };

  void prepare(const StageAction& action) {
    const auto m = static_cast<size_t>(action.micro_batch);
    if (rows_[m].empty()) return;
    MicroBatch& one = under_way_[m];
    if (!action.forward) {
      if (!links_.is_last()) links_.expect_from_next(one.own->border());
      return;
    }
    one.packed = pack_for(setup_, batch_.trajectories, rows_[m]);
    if (compares_) {
      const at::NoGradGuard no_grad;
      one.reference = Reference::of(setup_).staged_forward(one.packed->batch);
      if (!links_.is_first()) links_.expect_from_previous(one.reference->border());
    }
    one.own = setup_.policy.staged_forward(one.packed->batch);
    if (!links_.is_first()) links_.expect_from_previous(one.own->border());
  }

  void forward(size_t m, Numbers& numbers) {
    MicroBatch& one = under_way_[m];
    if (one.packed) fault::point("update.micro_batch");
    Recomputed of_reference;
    if (compares_) {
      policy::in_pass(Reference::of(setup_), /*with_backward=*/false, [&] {
        if (!one.packed) return;
        const at::NoGradGuard no_grad;
        const Reference reference(setup_);
        const StageOutput output = run_stage(*one.reference, links_);
        if (links_.is_last()) {
          of_reference = recomputed(reference.policy, setup_.rollout, *one.packed, one.reference->finish(output.out));
        }
        one.reference.reset();
      });
    }
    policy::in_pass(setup_.policy, /*with_backward=*/false, [&] {
      if (!one.packed) return;
      one.output = run_stage(*one.own, links_);
      if (!links_.is_last()) return;
      const Recomputed now = recomputed(setup_.policy, setup_.rollout, *one.packed, one.own->finish(one.output.out));
      one.loss = loss_of(batch_, minibatch_, *one.packed, now, of_reference, numbers);
    });
  }

  void backward(size_t m) {
    MicroBatch one = std::exchange(under_way_[m], {});
    policy::in_backward(setup_.policy, [&] {
      if (!one.packed) return;
      if (links_.is_last()) {
        if (one.loss.defined() && one.loss.requires_grad()) one.loss.backward();
      } else {
        const at::Tensor grad = links_.from_next();
        if (one.output.out.requires_grad()) torch::autograd::backward({one.output.out}, {grad});
      }
      if (links_.is_first()) return;
      const at::Tensor& grad = one.output.in.grad();
      links_.to_previous(grad.defined() ? grad.contiguous() : at::zeros_like(one.output.in));
    });
  }

  const Batch& batch_;
  const UpdateSetup& setup_;
  const MinibatchLoss& minibatch_;
  std::vector<std::vector<int64_t>> rows_;  // of each micro-batch
  const bool compares_;
  StageLinks links_;
  std::vector<MicroBatch> under_way_;
};

}  // namespace

bool through_stages(const Batch& batch, const MinibatchLoss& minibatch, const Minibatch& part, UpdateStats& stats,
                    UpdateStats& differences) {
  const Runtime& runtime = batch.setup.runtime;
  size_t turns = 0;
  for (const uint64_t count : gather(runtime, static_cast<uint64_t>(part.micro_batches.size()), "micro-batches")) {
    turns = std::max<size_t>(turns, count);
  }
  if (stop_asked(runtime)) return false;
  Numbers numbers;
  StageRun(batch, minibatch, part, turns).run(numbers);
  numbers.read_into(stats, differences);
  return !stop_asked(runtime);
}

void compare_through_stages(const UpdateSetup& setup, std::span<const rollout::Trajectory> trajectories,
                            std::span<const int64_t> rows, tensor::Readings& differences) {
  StageLinks links(*setup.runtime.groups);
  policy::in_pass(setup.policy, /*with_backward=*/false, [&] {
    if (rows.empty()) return;
    const PackedBatch packed = pack_for(setup, trajectories, rows);
    const auto forward = setup.policy.staged_forward(packed.batch);
    if (!links.is_first()) links.expect_from_previous(forward->border());
    const StageOutput output = run_stage(*forward, links);
    links.finish();
    if (!links.is_last()) return;
    const Recomputed now = recomputed(setup.policy, setup.rollout, packed, forward->finish(output.out));
    require_same_fingerprint(setup.policy, setup.rollout, trajectories, packed, now, setup.policy.weights_version());
    note_log_prob_diff(packed, now, differences);
  });
}

}  // namespace unigrpo::grpo
