#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "policy/policy.h"
#include "train/sft_examples.h"

/// SFT examples as a model's forwards take them: encoded once, noised a step at a time, packed by size.
namespace unigrpo::train {

/// A part of an example as the model reads it.
struct EncodedTurn {
  std::vector<int64_t> ids = {};  // text: a block, bos ids eos
  at::Tensor latents = {};        // image: [L, C]
  policy::LatentGrid grid = {};
  bool trained = true;
  std::vector<policy::Block> context = {};  // image: what later turns see of it; empty at the end
};

struct EncodedExample {
  std::vector<policy::Block> system;  // the system prompt, which guidance's context keeps
  std::vector<policy::Block> prompt;  // its images and its text
  std::vector<EncodedTurn> turns;

  uint64_t num_bytes() const;
};

/// Each example on its own, so that its bits do not depend on what else a step has. One that only reads images needs no
/// latents. Throws BadInput for images that the model cannot read, or of different sizes in one target.
EncodedExample encode(policy::UnifiedPolicy& policy, const std::string& system_prompt, const SftExample& example);

/// Noisy copies of one image.
struct Copies {
  at::Tensor clean, noise;  // [S, L, C]
  at::Tensor t;             // [S]
  policy::LatentGrid grid;
};

/// An example as one step trains on it.
struct SftRow {
  std::shared_ptr<const EncodedExample> example;
  bool without_prompt = false;      // its last image alone, after the system prompt
  std::vector<Copies> images = {};  // of its trained images, in order

  std::vector<policy::Block> prefix() const;
  int64_t num_tokens() const;
  /// The size of its images, which all have one; nothing where it draws none.
  std::optional<policy::LatentGrid> grid() const;
};

/// Rows of one forward: at most `budget` tokens, and noisy images of one size.
std::vector<std::span<const SftRow>> micro_batches(const std::vector<SftRow>& rows, int64_t budget);

/// One forward's input and targets.
struct PackedRows {
  policy::TrainBatch batch;
  std::vector<int64_t> target_rows, targets;  // of hidden states, and the tokens that come next
  std::vector<at::Tensor> clean, noise;
};

PackedRows pack(std::span<const SftRow> rows);

}  // namespace unigrpo::train
