#include "grpo/recompute.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"
#include "flow/guidance.h"
#include "rollout/fingerprint.h"
#include "rollout/rules.h"

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
  if (const PackedFlows& flows = packed.flows; !flows.streams.empty()) {
    const int64_t steps = flows.streams.front().x.size(0);
    const bool clips = !out.clip_velocities.empty();
    for (size_t m = 0; m < flows.streams.size(); ++m) {
      result.flows.push_back({.velocity = (clips ? out.clip_velocities[m] : out.velocity).narrow(0, 0, steps)});
    }
    if (rollout.rollout_cfg_scale != 1.0) {
      at::Tensor& velocity = result.flows.front().velocity;
      const flow::GuidanceConfig guide{.text_scale = rollout.rollout_cfg_scale};
      const at::Tensor guided = flow::guide(
          guide, {.conditional = velocity, .without_text = out.velocity.narrow(0, steps, steps), .without_image = {}});
      const at::Tensor& t = flows.times.t;
      const at::Tensor acts = (t.gt(guide.interval_low).logical_and(t.le(guide.interval_high))).view({-1, 1, 1});
      velocity = at::where(tensor::sent(acts, guided.device()), guided, velocity);
    }
    for (size_t m = 0; m < flows.streams.size(); ++m) {
      const PackedStream& stream = flows.streams[m];
      const auto sde = rollout::sde_of(rollout, stream.modality);
      result.flows[m].log_probs =
          sde ? flow::sde_log_prob(*sde, stream.x, result.flows[m].velocity, stream.x_next, flows.times)
              : stream.old_log_probs;  // an ODE has none
    }
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
  // `own`: of a segment's actions, those that are to be compared.
  auto compare = [&](const at::Tensor& got, const at::Tensor& old, const auto& segments, const std::string& modality,
                     auto own) {
    if (!got.defined()) return;
    const at::Tensor difference = (got.detach() - old).abs();
    int64_t first = 0;
    for (const auto& placed : segments) {
      const auto [from, count] = own(*placed.segment);
      if (count > 0) {
        numbers.add(turn_metric(placed.turn, modality + "/log_prob_diff"),
                    difference.narrow(0, first + from, count).max());
      }
      first += placed.segment->num_actions();
    }
  };
  compare(now.text_log_probs, packed.texts.old_log_probs, packed.texts.segments, "text",
          [](const rollout::TextSegment& text) { return std::pair<int64_t, int64_t>(0, text.num_actions()); });
  for (size_t m = 0; m < now.flows.size(); ++m) {
    const PackedStream& stream = packed.flows.streams[m];
    compare(now.flows[m].log_probs, stream.old_log_probs, packed.flows.segments, stream.modality,
            [m](const rollout::FlowSegment& flow) {
              const flow::SdeWindow window = flow.window_of(flow.streams[m]);
              return std::pair<int64_t, int64_t>(window.first - flow.window.first, window.width());
            });
  }
}

}  // namespace unigrpo::grpo
