#include "grpo/minibatch_loss.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <string>
#include <string_view>

#include "flow/sde_step.h"
#include "flow/velocity_penalty.h"
#include "grpo/image_loss.h"
#include "grpo/regulariser.h"
#include "grpo/text_loss.h"
#include "rollout/rules.h"
#include "tensor/device.h"

namespace unigrpo::grpo {
namespace {

using rollout::FlowSegment;
using rollout::TextSegment;
using rollout::Trajectory;

bool trains_text(const GrpoConfig& config) { return config.text.weight > 0; }

/// The segments of one turn that have actions, as rows of padded tensors.
template <typename Segment>
class TurnRows {
 public:
  TurnRows(const std::vector<Placed<Segment>>& segments, int64_t turn) {
    for (const Placed<Segment>& placed : segments) {
      lengths_.push_back(placed.segment->num_actions());
      if (placed.turn != turn || lengths_.back() == 0) continue;
      places_.push_back(lengths_.size() - 1);
      rows.push_back(placed);
    }
  }

  /// flat: [sum of all segments' actions] -> [B, longest], padded with zeros.
  at::Tensor padded(const at::Tensor& flat) const {
    const auto all = flat.split_with_sizes(lengths_);
    std::vector<at::Tensor> picked;
    for (const size_t place : places_) picked.push_back(all[place]);
    return at::pad_sequence(picked, /*batch_first=*/true);
  }

  /// [B, longest] bool: where there are actions.
  at::Tensor mask() const {
    std::vector<int64_t> picked;
    for (const size_t place : places_) picked.push_back(lengths_[place]);
    const at::Tensor limit = at::tensor(picked, at::kLong).unsqueeze(1);
    return at::arange(limit.max().item<int64_t>(), at::kLong).unsqueeze(0).lt(limit);
  }

  std::vector<Placed<Segment>> rows;  // [B]

 private:
  std::vector<int64_t> lengths_;  // of all segments
  std::vector<size_t> places_;    // of the rows among them
};

at::Tensor float_tensor(const std::vector<double>& values) { return at::tensor(values).to(at::kFloat); }

/// The part of turn `turn` in the mean over all turns.
double share(Aggregation how, const std::vector<ActionCounts>& turns, int64_t turn) {
  double total = 0;
  for (const ActionCounts& counts : turns) total += aggregated_size(how, counts);
  return total > 0 ? aggregated_size(how, turns[turn]) / total : 0.0;
}

ActionCounts counts_of(const GrpoConfig& config, const TextSegment& text) {
  const double tokens = trains_on(config.text.truncated, text.finished) ? static_cast<double>(text.num_actions()) : 0;
  return {.num_actions = tokens, .num_nonempty_rows = tokens > 0 ? 1.0 : 0.0, .num_rows = 1, .sum_of_weights = tokens};
}

/// The steps over which a stream's terms are means: its stochastic ones; where it goes by ODE, so that there is a
/// penalty alone, all that the segment has.
flow::SdeWindow trained_steps(const FlowSegment& flow, const rollout::FlowStream& stream) {
  const flow::SdeWindow own = flow.window_of(stream);
  return own.width() > 0 ? own : flow.window;
}

ActionCounts counts_of(StepWeight how, const FlowSegment& flow, const flow::SdeWindow& window) {
  ActionCounts steps{.num_actions = static_cast<double>(window.width()), .num_nonempty_rows = 1, .num_rows = 1};
  for (int64_t i = window.first; i < window.last; ++i) {
    steps.sum_of_weights += step_weight(how, flow.timesteps[i], flow.timesteps[i + 1]);
  }
  return steps;
}

/// [B, longest] bool: where the stream of this index has steps that count.
at::Tensor step_mask(const TurnRows<FlowSegment>& turn_rows, size_t stream) {
  int64_t longest = 0;
  for (const auto& placed : turn_rows.rows) longest = std::max(longest, placed.segment->num_actions());
  const at::Tensor mask = at::zeros({static_cast<int64_t>(turn_rows.rows.size()), longest}, at::kBool);
  for (size_t b = 0; b < turn_rows.rows.size(); ++b) {
    const FlowSegment& flow = *turn_rows.rows[b].segment;
    const flow::SdeWindow window = trained_steps(flow, flow.streams[stream]);
    mask[static_cast<int64_t>(b)].narrow(0, window.first - flow.window.first, window.width()).fill_(true);
  }
  return mask;
}

/// [B, S], or undefined where all steps weigh alike.
at::Tensor step_weights(StepWeight how, const TurnRows<FlowSegment>& turn_rows) {
  if (how == StepWeight::uniform) return {};
  std::vector<at::Tensor> weights;
  for (const Placed<FlowSegment>& placed : turn_rows.rows) {
    const FlowSegment& flow = *placed.segment;
    std::vector<double> steps;
    for (int64_t i = flow.window.first; i < flow.window.last; ++i) {
      steps.push_back(step_weight(how, flow.timesteps[i], flow.timesteps[i + 1]));
    }
    weights.push_back(float_tensor(steps));
  }
  return at::pad_sequence(weights, /*batch_first=*/true);
}

}  // namespace

TurnCounts count_turns(const GrpoConfig& config, std::span<const Trajectory> trajectories,
                       std::span<const int64_t> rows) {
  TurnCounts counts;
  auto add = [](size_t turn, const ActionCounts& own, std::vector<ActionCounts>& turns) {
    if (turns.size() <= turn) turns.resize(turn + 1);
    turns[turn] += own;
  };
  for (const int64_t row : rows) {
    const Trajectory& trajectory = trajectories[row];
    for (size_t turn = 0; turn < trajectory.texts.size(); ++turn) {
      const TextSegment& text = trajectory.texts[turn];
      if (text.num_actions() > 0) add(turn, counts_of(config, text), counts.text);
    }
    for (size_t turn = 0; turn < trajectory.flows.size(); ++turn) {
      const FlowSegment& flow = trajectory.flows[turn];
      if (flow.num_actions() == 0) continue;
      for (const rollout::FlowStream& stream : flow.streams) {
        add(turn, counts_of(flow_loss(config, stream.modality).step_weight, flow, trained_steps(flow, stream)),
            counts.flow[stream.modality]);
      }
    }
  }
  return counts;
}

int64_t TurnCounts::num_turns() const {
  size_t turns = text.size();
  for (const auto& [modality, of_turns] : flow) turns = std::max(turns, of_turns.size());
  return static_cast<int64_t>(turns);
}

const ImageLossConfig& flow_loss(const GrpoConfig& config, std::string_view modality) {
  return modality == "video" ? config.video : modality == "audio" ? config.audio : config.image;
}

bool needs_reference(const GrpoConfig& config, const rollout::RolloutConfig& rollout) {
  const auto holds = [&](std::string_view modality) {
    const ImageLossConfig& loss = flow_loss(config, modality);
    return loss.weight > 0 && loss.penalty != flow::Penalty::none;
  };
  return std::ranges::any_of(rollout::flow_modalities(rollout), holds) ||
         (trains_text(config) && config.text.kl_beta > 0);
}

at::Tensor MinibatchLoss::loss(const PackedBatch& packed, const Recomputed& now, const Recomputed& reference,
                               tensor::Readings& numbers) const {
  at::Tensor sum;
  auto add = [&](const at::Tensor& term) {
    if (term.defined()) sum = sum.defined() ? sum + term : term;
  };
  for (int64_t turn = 0; turn < counts_.num_turns(); ++turn) {
    if (trains_text(config_)) add(text_term(turn, packed.texts, now, reference, numbers));
    for (size_t m = 0; m < packed.flows.streams.size(); ++m) {
      if (flow_loss(config_, packed.flows.streams[m].modality).weight <= 0) continue;
      add(flow_term(turn, m, packed.flows, now, reference, numbers));
    }
  }
  return sum;
}

at::Tensor MinibatchLoss::text_term(int64_t turn, const PackedTexts& texts, const Recomputed& now,
                                    const Recomputed& reference, tensor::Readings& numbers) const {
  const TurnRows turn_rows(texts.segments, turn);
  if (turn_rows.rows.empty()) return {};
  at::Tensor mask = turn_rows.mask();
  std::vector<double> advantages;
  for (size_t i = 0; i < turn_rows.rows.size(); ++i) {
    const Placed<TextSegment>& placed = turn_rows.rows[i];
    const bool finished = placed.segment->finished;
    if (!trains_on(config_.text.truncated, finished)) mask[static_cast<int64_t>(i)].fill_(false);
    advantages.push_back(advantages_.of_text(static_cast<size_t>(placed.row), finished));
  }
  at::Tensor advantage = float_tensor(advantages);
  tensor::send_together({&mask, &advantage}, texts.old_log_probs.device());
  const bool compared = reference.text_log_probs.defined();  // for the loss, or since the image's penalty asked for it
  const TextLoss result =
      text_loss(config_.text,
                {.log_probs = turn_rows.padded(now.text_log_probs),
                 .old_log_probs = turn_rows.padded(texts.old_log_probs),
                 .ref_log_probs = compared ? turn_rows.padded(reference.text_log_probs) : at::Tensor(),
                 .mask = mask,
                 .advantages = advantage},
                counts_.text[turn], rollout_.max_tokens);
  auto note = [&](const char* name, const at::Tensor& value) { numbers.add(turn_metric(turn, name), value); };
  note("text/loss", result.loss);
  if (compared) note("text/kl", result.kl);
  note("text/approx_kl", result.approx_kl);
  note("text/clip_fraction", result.clip_fraction);
  return config_.text.weight * share(config_.text.aggregation, counts_.text, turn) * result.loss;
}

at::Tensor MinibatchLoss::flow_term(int64_t turn, size_t stream, const PackedFlows& flows, const Recomputed& now,
                                    const Recomputed& reference, tensor::Readings& numbers) const {
  const TurnRows turn_rows(flows.segments, turn);
  if (turn_rows.rows.empty()) return {};
  const PackedStream& old = flows.streams[stream];
  const at::Tensor& velocity = now.flows[stream].velocity;
  const ImageLossConfig& config = flow_loss(config_, old.modality);
  const auto sde = rollout::sde_of(rollout_, old.modality);
  std::vector<double> advantages;
  for (const auto& placed : turn_rows.rows) {
    // What moves by an ODE has no surrogate.
    advantages.push_back(sde ? advantages_.of_flow(old.modality)[placed.row] : 0.0);
  }
  const FlowPenalty* penalty = flow_penalty(config.penalty);
  ImageBatch batch{.log_probs = turn_rows.padded(now.flows[stream].log_probs),
                   .old_log_probs = turn_rows.padded(old.old_log_probs),
                   .mask = step_mask(turn_rows, stream),
                   .advantages = float_tensor(advantages),
                   .log_ratios = {},
                   .step_weights = step_weights(config.step_weight, turn_rows),
                   .penalty = {}};
  tensor::send_together({&batch.mask, &batch.advantages, &batch.step_weights}, old.old_log_probs.device());
  const flow::SdeConfig moves = sde.value_or(rollout_.sde);
  if (config.ratio_norm) {
    batch.log_ratios = turn_rows.padded(
        sde ? flow::ratio_norm_log_ratio(moves, old.x, velocity, old.velocity_old, old.x_next, flows.times)
            : at::zeros_like(old.old_log_probs));
  }
  if (penalty) {
    batch.penalty = turn_rows.padded(penalty->of(moves, velocity, reference.flows[stream].velocity, flows.times));
  }
  const std::vector<ActionCounts>& turns = counts_.flow.at(old.modality);
  const ActionCounts& counts = turns[turn];
  const ImageLoss result = image_loss(config, batch, counts);

  const std::string prefix = old.modality + "/";
  auto note = [&](std::string_view name, const at::Tensor& value) {
    numbers.add(turn_metric(turn, prefix + std::string(name)), value);
  };
  note("loss", result.loss);
  note("approx_kl", result.approx_kl);
  note("clip_fraction", result.clip_fraction);
  note("outside_clip_range", result.outside_clip_range);
  note("ratio", result.ratio_mean);
  if (config.ratio_norm) note("plain_ratio", result.plain_ratio_mean);
  if (penalty) note(enum_name(penalty->penalty), result.penalty);
  if (penalty && penalty->penalty != flow::Penalty::velocity_mse) {  // how far from the reference, on one scale for all
    const at::Tensor away = turn_rows.padded(flow::velocity_mse(velocity.detach(), reference.flows[stream].velocity));
    note(enum_name(flow::Penalty::velocity_mse), (away * batch.mask).sum() / counts.num_actions);
  }
  return share(Aggregation::token_mean, turns, turn) * result.total;
}

}  // namespace unigrpo::grpo
