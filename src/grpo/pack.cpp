#include "grpo/pack.h"

#include <ATen/ATen.h>

#include <map>

namespace unigrpo::grpo {

using rollout::ImageSegment;
using rollout::TextSegment;
using rollout::Trajectory;

int64_t training_tokens(const Trajectory& trajectory) {
  int64_t tokens = 0;
  for (const auto& segment : trajectory.segments) {
    if (const auto* text = std::get_if<TextSegment>(&segment)) {
      tokens += static_cast<int64_t>(text->ids.size()) + 2;
    } else {
      const auto& image = std::get<ImageSegment>(segment);
      tokens += image.window.width() * (image.grid.num_tokens() + 2) + policy::num_tokens(image.context);
    }
  }
  return tokens;
}

namespace {

/// The size of a trajectory's images, which all have one.
policy::LatentGrid grid_of(const Trajectory& trajectory) {
  for (const auto& segment : trajectory.segments) {
    if (const auto* image = std::get_if<ImageSegment>(&segment)) return image->grid;
  }
  return {};
}

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
    if (batches.empty() || used + needed > token_budget || grid_of(trajectory) != grid) {
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
  PackedBatch packed;
  packed.rows.assign(rows.begin(), rows.end());
  packed.batch.detach_context = detach_context;
  std::map<int64_t, int64_t> prefix_of_prompt, textless_of_prompt;
  std::vector<policy::TrainSequence> unconditional;
  std::vector<int64_t> text_rows, text_ids;
  std::vector<at::Tensor> old_text, entropy, x, x_next, velocity_old, old_image;
  std::vector<double> t, t_next;
  int64_t hidden_row = 0;
  for (size_t r = 0; r < rows.size(); ++r) {
    const Trajectory& trajectory = trajectories[rows[r]];
    const auto [slot, fresh] =
        prefix_of_prompt.try_emplace(trajectory.prompt_index, static_cast<int64_t>(packed.batch.prefixes.size()));
    if (fresh) packed.batch.prefixes.push_back(trajectory.prefix);
    policy::TrainSequence sequence{.prefix = slot->second, .blocks = {}};
    std::vector<policy::Block> seen;  // images drawn so far
    int64_t texts = 0, images = 0;
    for (size_t index = 0; index < trajectory.segments.size(); ++index) {
      const auto& segment = trajectory.segments[index];
      const PackedBatch::Place place{.row = static_cast<int64_t>(r),
                                     .segment = static_cast<int64_t>(index),
                                     .sequence = static_cast<int64_t>(packed.batch.sequences.size()),
                                     .block = static_cast<int64_t>(sequence.blocks.size())};
      if (const auto* text = std::get_if<TextSegment>(&segment)) {
        const auto k = static_cast<int64_t>(text->ids.size());
        std::vector<int64_t> ids = {policy.bos_id()};
        ids.insert(ids.end(), text->ids.begin(), text->ids.end());
        if (!text->ended) ids.push_back(policy.eos_id());
        if (!text->forced) {
          for (int64_t i = 0; i < k; ++i) text_rows.push_back(hidden_row + i);
          text_ids.insert(text_ids.end(), text->ids.begin(), text->ids.end());
          packed.text_lengths.push_back(k);
          packed.text_segment_row.push_back(static_cast<int64_t>(r));
          packed.text_ended.push_back(text->ended);
          packed.text_round.push_back(texts);
          old_text.push_back(text->log_probs);
          entropy.push_back(text->entropy);
        }
        ++texts;
        packed.places.push_back(place);
        hidden_row += static_cast<int64_t>(ids.size());
        sequence.blocks.push_back(policy::text_block(std::move(ids)));
        continue;
      }
      const auto& image = std::get<ImageSegment>(segment);
      if (const int64_t s = image.window.width(); s > 0) {
        const std::vector<double> times(image.timesteps.begin() + image.window.first,
                                        image.timesteps.begin() + image.window.last + 1);
        t.insert(t.end(), times.begin(), times.end() - 1);
        t_next.insert(t_next.end(), times.begin() + 1, times.end());
        packed.t_max = image.timesteps[1];
        x.push_back(image.latents.narrow(0, 0, s));
        x_next.push_back(image.latents.narrow(0, 1, s));
        velocity_old.push_back(image.velocities);
        old_image.push_back(image.log_probs);
        packed.image_widths.push_back(s);
        packed.image_segment_row.push_back(static_cast<int64_t>(r));
        packed.image_round.push_back(images);
        packed.places.push_back(place);
        const at::Tensor at_t = at::tensor(std::vector<double>(times.begin(), times.end() - 1)).to(at::kFloat);
        sequence.blocks.push_back(policy::noisy_image_block(x.back(), at_t, image.grid));
        if (with_unconditional) {
          unconditional.push_back({.prefix = trajectory.prompt_index, .blocks = seen});
          unconditional.back().blocks.push_back(sequence.blocks.back());
        }
      }
      ++images;
      seen.insert(seen.end(), image.context.begin(), image.context.end());
      sequence.blocks.insert(sequence.blocks.end(), image.context.begin(), image.context.end());
    }
    packed.batch.sequences.push_back(std::move(sequence));
  }
  for (auto& sequence : unconditional) {
    const auto& prefixes = packed.batch.prefixes;
    const auto [slot, fresh] = textless_of_prompt.try_emplace(sequence.prefix, static_cast<int64_t>(prefixes.size()));
    if (fresh) {
      const auto& whole = prefixes[prefix_of_prompt.at(sequence.prefix)];
      packed.batch.prefixes.push_back({whole.begin(), whole.end() - 1});
    }
    sequence.prefix = slot->second;
    packed.batch.sequences.push_back(std::move(sequence));
  }
  if (!text_ids.empty()) {
    packed.text_rows = at::tensor(text_rows, at::kLong);
    packed.text_ids = at::tensor(text_ids, at::kLong);
    packed.text_old_log_probs = at::cat(old_text);
    packed.text_entropy = at::cat(entropy);
  }
  if (!x.empty()) {
    packed.x = at::cat(x);
    packed.x_next = at::cat(x_next);
    packed.velocity_old = at::cat(velocity_old);
    packed.image_old_log_probs = at::cat(old_image);
    packed.t = at::tensor(t);
    packed.t_next = at::tensor(t_next);
  }
  return packed;
}

}  // namespace unigrpo::grpo
