#include "train/sft_pack.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/text.h"
#include "flow/matching_loss.h"

namespace unigrpo::train {

using policy::Block;

namespace {

uint64_t bytes_of(const std::vector<Block>& blocks) {
  uint64_t bytes = 0;
  for (const Block& block : blocks) {
    if (const auto* text = std::get_if<policy::TextBlock>(&block)) bytes += text->ids.size() * sizeof(int64_t);
    if (const auto* clean = std::get_if<policy::LatentBlock>(&block)) bytes += clean->latents.nbytes();
    if (const auto* vision = std::get_if<policy::VisionBlock>(&block)) bytes += vision->pixels.nbytes();
  }
  return bytes;
}

}  // namespace

uint64_t EncodedExample::num_bytes() const {
  uint64_t bytes = bytes_of(system) + bytes_of(prompt);
  for (const EncodedTurn& turn : turns) {
    bytes += turn.ids.size() * sizeof(int64_t) + bytes_of(turn.context);
    if (turn.latents.defined()) bytes += turn.latents.nbytes();
  }
  return bytes;
}

EncodedExample encode(policy::UnifiedPolicy& policy, const std::string& system_prompt, const SftExample& example) {
  std::vector<Image> images = example.images;
  for (const SftTurn& turn : example.target) {
    if (turn.image) images.push_back(*turn.image);
  }
  auto blocks = images.empty() ? std::vector<std::vector<Block>>{} : policy.read_images(images, example.draws);
  EncodedExample encoded;
  if (!system_prompt.empty()) encoded.system.push_back(policy::TextBlock{policy::block_ids(policy, system_prompt)});
  std::optional<policy::LatentGrid> trained_grid;
  size_t next = 0;
  for (; next < example.images.size(); ++next) {
    encoded.prompt.insert(encoded.prompt.end(), blocks[next].begin(), blocks[next].end());
  }
  encoded.prompt.push_back(policy::TextBlock{policy::block_ids(policy, example.prompt)});
  for (const SftTurn& turn : example.target) {
    if (!turn.image) {
      encoded.turns.push_back({.ids = policy::block_ids(policy, turn.text)});
      continue;
    }
    const auto& clean = std::get<policy::LatentBlock>(blocks[next].front());
    if (turn.trained && trained_grid && *trained_grid != clean.grid) {
      throw BadInput("target of the prompt {}: its images have different sizes; all must have one",
                     in_quotes(example.prompt));
    }
    if (turn.trained) trained_grid = clean.grid;
    EncodedTurn drawn{.latents = clean.latents, .grid = clean.grid, .trained = turn.trained};
    if (&turn != &example.target.back()) drawn.context = std::move(blocks[next]);
    encoded.turns.push_back(std::move(drawn));
    ++next;
  }
  return encoded;
}

std::vector<Block> SftRow::prefix() const {
  std::vector<Block> blocks = example->system;
  if (!without_prompt) blocks.insert(blocks.end(), example->prompt.begin(), example->prompt.end());
  return blocks;
}

int64_t SftRow::num_tokens() const {
  int64_t tokens = policy::num_tokens(example->system);
  for (const Copies& copies : images) tokens += copies.t.size(0) * (copies.grid.num_tokens() + 2);
  if (without_prompt) return tokens;
  tokens += policy::num_tokens(example->prompt);
  for (const EncodedTurn& turn : example->turns) {
    tokens += static_cast<int64_t>(turn.ids.size()) + policy::num_tokens(turn.context);
  }
  return tokens;
}

std::optional<policy::LatentGrid> SftRow::grid() const {
  return images.empty() ? std::nullopt : std::optional(images.front().grid);
}

std::vector<std::span<const SftRow>> micro_batches(const std::vector<SftRow>& rows, int64_t budget) {
  std::vector<std::span<const SftRow>> batches;
  int64_t tokens = 0;
  size_t first = 0;
  std::optional<policy::LatentGrid> grid;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto own = rows[i].grid();
    if (i > first && (tokens + rows[i].num_tokens() > budget || (own && grid && *own != *grid))) {
      batches.push_back(std::span(rows).subspan(first, i - first));
      first = i;
      tokens = 0;
      grid.reset();
    }
    tokens += rows[i].num_tokens();
    if (own) grid = own;
  }
  if (first < rows.size()) batches.push_back(std::span(rows).subspan(first));
  return batches;
}

PackedRows pack(std::span<const SftRow> rows) {
  PackedRows packed;
  int64_t text_row = 0;
  for (const SftRow& row : rows) {
    policy::TrainSequence sequence{.prefix = static_cast<int64_t>(packed.batch.prefixes.size()), .blocks = {}};
    packed.batch.prefixes.push_back(row.prefix());
    auto next = row.images.begin();
    const auto add_noisy = [&] {
      packed.clean.push_back(next->clean);
      packed.noise.push_back(next->noise);
      const at::Tensor latents = flow::noisy_latents(next->clean, next->noise, next->t);
      sequence.blocks.push_back(policy::NoisyBlock{latents, next->t, next->grid});
      ++next;
    };
    if (row.without_prompt) {
      add_noisy();
      packed.batch.sequences.push_back(std::move(sequence));
      continue;
    }
    for (const EncodedTurn& turn : row.example->turns) {
      if (turn.latents.defined()) {
        if (turn.trained) add_noisy();
        sequence.blocks.insert(sequence.blocks.end(), turn.context.begin(), turn.context.end());
        continue;
      }
      for (size_t k = 0; k + 1 < turn.ids.size(); ++k) {
        packed.target_rows.push_back(text_row + static_cast<int64_t>(k));
        packed.targets.push_back(turn.ids[k + 1]);
      }
      text_row += static_cast<int64_t>(turn.ids.size());
      sequence.blocks.push_back(policy::TextBlock{turn.ids});
    }
    packed.batch.sequences.push_back(std::move(sequence));
  }
  return packed;
}

}  // namespace unigrpo::train
