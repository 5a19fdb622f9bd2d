#include "grpo/pack.h"

#include <ATen/ATen.h>

#include <map>
#include <utility>

#include "tensor/device.h"

namespace unigrpo::grpo {

using rollout::FlowSegment;
using rollout::TextSegment;
using rollout::Trajectory;

int64_t training_tokens(const Trajectory& trajectory) {
  int64_t tokens = 0;
  for (const TextSegment& text : trajectory.texts) tokens += static_cast<int64_t>(text.ids.size()) + 2;
  for (const FlowSegment& flow : trajectory.flows) {
    tokens += flow.num_actions() * flow.state_tokens() + policy::num_tokens(flow.context);
  }
  return tokens;
}

TrainingSize training_size(const Trajectory& trajectory) {
  TrainingSize size;
  double context = 0;
  const auto add = [&](int64_t tokens, double seen_within, bool stays) {
    size.tokens += tokens;
    size.pairs += static_cast<double>(tokens) * (context + seen_within);
    if (stays) context += static_cast<double>(tokens);
  };
  const auto add_clean = [&](const policy::Block& block) {
    const auto tokens = static_cast<double>(policy::num_tokens(block));
    add(policy::num_tokens(block), std::holds_alternative<policy::TextBlock>(block) ? (tokens + 1) / 2 : tokens, true);
  };
  for (const policy::Block& block : trajectory.prefix) add_clean(block);
  size.prefix_tokens = size.tokens;
  size.prefix_pairs = size.pairs;
  size_t texts = 0, flows = 0;
  for (const data::SegmentKind kind : trajectory.segments) {
    if (kind == data::SegmentKind::text) {
      const int64_t tokens = std::ssize(trajectory.texts[texts++].ids) + 2;
      add(tokens, static_cast<double>(tokens + 1) / 2, true);
      continue;
    }
    const FlowSegment& flow = trajectory.flows[flows++];
    const int64_t tokens = flow.state_tokens();  // of one state, which sees no other
    for (int64_t s = 0; s < flow.num_actions(); ++s) add(tokens, static_cast<double>(tokens), false);
    for (const policy::Block& block : flow.context) add_clean(block);
  }
  return size;
}

namespace {

/// Of a stream, segment by segment.
struct StreamParts {
  std::string modality;
  std::vector<at::Tensor> x, x_next, velocity_old, old_log_probs;
};

/// S states that are being denoised at the times t.
policy::Block noisy_block(const FlowSegment& flow, const std::vector<at::Tensor>& latents, const at::Tensor& t) {
  if (flow.streams.size() == 1) return policy::NoisyBlock{latents.front(), t, flow.stream().grid};
  return policy::NoisyClip{latents, t, {flow.streams[0].grid, flow.streams[1].grid, flow.fps}};
}

/// The size of a trajectory's images, which all have one.
policy::LatentGrid grid_of(const Trajectory& trajectory) {
  return trajectory.flows.empty() ? policy::LatentGrid{} : trajectory.flows.front().stream().grid;
}

/// Appends trajectories to a batch, block by block.
class Packer {
 public:
  Packer(const policy::UnifiedPolicy& policy, bool with_unconditional)
      : policy_(policy), with_unconditional_(with_unconditional) {}

  void add(const Trajectory& trajectory, int64_t row) {
    auto& prefixes = packed_.batch.prefixes;
    const auto [slot, fresh] =
        prefix_of_prompt_.try_emplace(trajectory.prompt_index, static_cast<int64_t>(prefixes.size()));
    if (fresh) prefixes.push_back(trajectory.prefix);
    policy::TrainSequence sequence{.prefix = slot->second, .blocks = {}};
    std::vector<policy::Block> seen;  // images drawn so far
    size_t texts = 0, flows = 0;
    for (size_t index = 0; index < trajectory.segments.size(); ++index) {
      const bool is_text = trajectory.segments[index] == data::SegmentKind::text;
      const size_t turn = is_text ? texts++ : flows++;
      auto placed = [&]<typename Segment>(const Segment& segment) -> Placed<Segment> {
        return {.segment = &segment,
                .row = row,
                .segment_index = static_cast<int64_t>(index),
                .turn = static_cast<int64_t>(turn),
                .sequence = static_cast<int64_t>(packed_.batch.sequences.size()),
                .block = static_cast<int64_t>(sequence.blocks.size())};
      };
      if (is_text) {
        add_text(placed(trajectory.texts[turn]), sequence);
        continue;
      }
      const FlowSegment& flow = trajectory.flows[turn];
      if (flow.num_actions() > 0) {
        add_steps(placed(flow), sequence);
        if (with_unconditional_) {
          unconditional_.push_back({.prefix = trajectory.prompt_index, .blocks = seen});
          unconditional_.back().blocks.push_back(sequence.blocks.back());
        }
      }
      seen.insert(seen.end(), flow.context.begin(), flow.context.end());
      sequence.blocks.insert(sequence.blocks.end(), flow.context.begin(), flow.context.end());
    }
    packed_.batch.sequences.push_back(std::move(sequence));
  }

  PackedBatch finish() {
    add_unconditional();
    if (!text_ids_.empty()) {
      packed_.texts.hidden_rows = at::tensor(text_rows_, at::kLong);
      packed_.texts.ids = at::tensor(text_ids_, at::kLong);
      packed_.texts.old_log_probs = at::cat(old_text_);
    }
    std::vector<at::Tensor*> sent = {&packed_.texts.hidden_rows, &packed_.texts.ids, &packed_.texts.old_log_probs};
    packed_.flows.streams.resize(streams_.size());
    for (size_t m = 0; m < streams_.size(); ++m) {
      PackedStream& stream = packed_.flows.streams[m];
      stream = {.modality = streams_[m].modality,
                .x = at::cat(streams_[m].x),
                .x_next = at::cat(streams_[m].x_next),
                .velocity_old = at::cat(streams_[m].velocity_old),
                .old_log_probs = at::cat(streams_[m].old_log_probs)};
      sent.insert(sent.end(), {&stream.x, &stream.x_next, &stream.velocity_old, &stream.old_log_probs});
    }
    if (!t_.empty()) {
      packed_.flows.times.t = at::tensor(t_);
      packed_.flows.times.t_next = at::tensor(t_next_);
    }
    // The times stay: a device gets the steps' coefficients.
    tensor::send_together(sent, policy_.device());
    return std::move(packed_);
  }

 private:
  void add_text(const Placed<TextSegment>& placed, policy::TrainSequence& sequence) {
    const TextSegment& text = *placed.segment;
    std::vector<int64_t> ids = {policy_.bos_id()};
    ids.insert(ids.end(), text.ids.begin(), text.ids.end());
    if (!text.finished) ids.push_back(policy_.eos_id());
    if (text.num_actions() > 0) {
      for (int64_t i = 0; i < text.num_actions(); ++i) text_rows_.push_back(hidden_row_ + i);
      text_ids_.insert(text_ids_.end(), text.ids.begin(), text.ids.end());
      old_text_.push_back(text.log_probs);
    }
    packed_.texts.segments.push_back(placed);
    hidden_row_ += static_cast<int64_t>(ids.size());
    sequence.blocks.push_back(policy::TextBlock{std::move(ids)});
  }

  void add_steps(const Placed<FlowSegment>& placed, policy::TrainSequence& sequence) {
    const FlowSegment& flow = *placed.segment;
    const int64_t s = flow.num_actions();
    const std::vector<double> times(flow.timesteps.begin() + flow.window.first,
                                    flow.timesteps.begin() + flow.window.last + 1);
    t_.insert(t_.end(), times.begin(), times.end() - 1);
    t_next_.insert(t_next_.end(), times.begin() + 1, times.end());
    packed_.flows.times.t_max = flow.timesteps[1];
    streams_.resize(flow.streams.size());
    std::vector<at::Tensor> latents;
    for (size_t m = 0; m < flow.streams.size(); ++m) {
      const rollout::FlowStream& stream = flow.streams[m];
      StreamParts& parts = streams_[m];
      parts.modality = stream.modality;
      parts.x.push_back(stream.latents.narrow(0, 0, s));
      parts.x_next.push_back(stream.latents.narrow(0, 1, s));
      parts.velocity_old.push_back(stream.velocities);
      parts.old_log_probs.push_back(stream.log_probs);
      latents.push_back(parts.x.back());
    }
    packed_.flows.segments.push_back(placed);
    const at::Tensor at_t = at::tensor(std::vector<double>(times.begin(), times.end() - 1)).to(at::kFloat);
    sequence.blocks.push_back(noisy_block(flow, latents, at_t));
  }

  void add_unconditional() {
    std::map<int64_t, int64_t> textless_of_prompt;
    auto& prefixes = packed_.batch.prefixes;
    for (policy::TrainSequence& sequence : unconditional_) {
      const auto [slot, fresh] = textless_of_prompt.try_emplace(sequence.prefix, static_cast<int64_t>(prefixes.size()));
      if (fresh) {
        const auto& whole = prefixes[prefix_of_prompt_.at(sequence.prefix)];
        prefixes.push_back({whole.begin(), whole.end() - 1});
      }
      sequence.prefix = slot->second;
      packed_.batch.sequences.push_back(std::move(sequence));
    }
  }

  const policy::UnifiedPolicy& policy_;
  bool with_unconditional_;
  PackedBatch packed_;
  std::map<int64_t, int64_t> prefix_of_prompt_;
  std::vector<policy::TrainSequence> unconditional_;  // `prefix` is the prompt until they are added
  int64_t hidden_row_ = 0;
  std::vector<int64_t> text_rows_, text_ids_;
  std::vector<double> t_, t_next_;
  std::vector<at::Tensor> old_text_;
  std::vector<StreamParts> streams_;
};

}  // namespace

std::vector<std::vector<int64_t>> plan_micro_batches(std::span<const Trajectory> trajectories,
                                                     std::span<const int64_t> rows, int64_t token_budget) {
  std::vector<std::vector<int64_t>> batches;
  int64_t used = 0, prompt = -1;
  policy::LatentGrid grid;
  for (const int64_t row : rows) {
    const Trajectory& trajectory = trajectories[row];
    const bool shares = !batches.empty() && trajectory.prompt_index == prompt;
    int64_t needed = training_tokens(trajectory);
    if (!shares) needed += policy::num_tokens(trajectory.prefix);
    const bool fits = !batches.empty() && used + needed <= token_budget && grid_of(trajectory) == grid &&
                      trajectories[batches.back().front()].task == trajectory.task;
    if (!fits) {
      if (shares) needed += policy::num_tokens(trajectory.prefix);
      batches.emplace_back();
      used = 0;
      grid = grid_of(trajectory);
    }
    batches.back().push_back(row);
    used += needed;
    prompt = trajectory.prompt_index;
  }
  return batches;
}

PackedBatch pack(const policy::UnifiedPolicy& policy, std::span<const Trajectory> trajectories,
                 std::span<const int64_t> rows, bool detach_context, bool with_unconditional) {
  Packer packer(policy, with_unconditional);
  for (const int64_t row : rows) packer.add(trajectories[row], row);
  PackedBatch packed = packer.finish();
  packed.batch.detach_context = detach_context;
  return packed;
}

}  // namespace unigrpo::grpo
