#include "grpo/recompute.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>

#include "base/error.h"
#include "flow/guidance.h"
#include "rollout/fingerprint.h"

namespace unigrpo::grpo {

Recomputed recompute(policy::UnifiedPolicy& policy, const rollout::RolloutConfig& rollout, const PackedBatch& packed) {
  return recomputed(policy, rollout, packed, policy.forward_train(packed.batch));
}

Recomputed recomputed(const policy::UnifiedPolicy& policy, const rollout::RolloutConfig& rollout,
                      const PackedBatch& packed, policy::TrainOutput out) {
  Recomputed result;
  result.digests = std::move(out.digests);
  if (packed.texts.ids.defined()) {
    result.text_log_probs = policy.log_probs(out.text_hidden.index_select(0, packed.texts.hidden_rows),
                                             packed.texts.ids, rollout.temperature);
  }
  if (const PackedFlows& flows = packed.flows; flows.x.defined()) {
    const int64_t steps = flows.x.size(0);
    result.velocity = out.velocity.narrow(0, 0, steps);
    if (rollout.rollout_cfg_scale != 1.0) {
      const flow::GuidanceConfig guide{.text_scale = rollout.rollout_cfg_scale};
      const at::Tensor guided = flow::guide(
          guide,
          {.conditional = result.velocity, .without_text = out.velocity.narrow(0, steps, steps), .without_image = {}});
      const at::Tensor& t = flows.times.t;
      const at::Tensor acts = (t.gt(guide.interval_low).logical_and(t.le(guide.interval_high))).view({-1, 1, 1});
      result.velocity = at::where(tensor::sent(acts, guided.device()), guided, result.velocity);
    }
    result.flow_log_probs = flow::sde_log_prob(rollout.sde, flows.x, result.velocity, flows.x_next, flows.times);
  }
  return result;
}

void require_same_fingerprint(const policy::UnifiedPolicy& policy, const rollout::RolloutConfig& rollout,
                              std::span<const rollout::Trajectory> trajectories, const PackedBatch& packed,
                              const Recomputed& now, uint64_t weights_version) {
  auto check = [&](const auto& segments) {
    for (const auto& placed : segments) {
      rollout::Fingerprint fingerprint =
          rollout::fingerprint_of(now.digests.at(placed.sequence).at(placed.block), *placed.segment, rollout, policy);
      fingerprint.weights_version = weights_version;
      const std::string field = rollout::first_difference(placed.segment->fingerprint, fingerprint);
      if (field.empty()) continue;
      throw RuntimeFailure("sample {}, segment {}: the update's {} is not the rollout's; nothing was trained on it",
                           trajectories[placed.row].sample.id, placed.segment_index, field);
    }
  };
  check(packed.texts.segments);
  check(packed.flows.segments);
}

void note_log_prob_diff(const PackedBatch& packed, const Recomputed& now, tensor::Readings& numbers) {
  auto compare = [&](const at::Tensor& got, const at::Tensor& old, const auto& segments, auto modality_of) {
    if (!got.defined()) return;
    const at::Tensor difference = (got.detach() - old).abs();
    int64_t first = 0;
    for (const auto& placed : segments) {
      const int64_t count = placed.segment->num_actions();
      if (count == 0) continue;
      numbers.add(turn_metric(placed.turn, modality_of(*placed.segment) + "/log_prob_diff"),
                  difference.narrow(0, first, count).max());
      first += count;
    }
  };
  compare(now.text_log_probs, packed.texts.old_log_probs, packed.texts.segments,
          [](const rollout::TextSegment&) { return std::string("text"); });
  compare(now.flow_log_probs, packed.flows.old_log_probs, packed.flows.segments,
          [](const rollout::FlowSegment& flow) { return flow.stream().modality; });
}

}  // namespace unigrpo::grpo
