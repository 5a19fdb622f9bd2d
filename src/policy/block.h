#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

namespace unigrpo::policy {

/// A grid of latent tokens, or of vision patches.
struct LatentGrid {
  int64_t height = 0, width = 0;
  int64_t num_tokens() const { return height * width; }
  bool operator==(const LatentGrid&) const = default;
};

/// Causal text: token ids, e.g. bos y_1..y_K eos.
struct TextBlock {
  std::vector<int64_t> ids;
};

/// A clean image as VAE tokens at t = 0; all its tokens see each other.
struct LatentBlock {
  at::Tensor latents;  // [L, C] float32
  LatentGrid grid;
};

/// A clean image as tokens of the vision tower; all see each other.
struct VisionBlock {
  at::Tensor pixels;  // [3, H, W] float32 in [-1, 1], sides divisible by the patch
  LatentGrid grid;
};

/// S states of latents that are being denoised: each sees the context and itself, and nothing sees them.
struct NoisyBlock {
  at::Tensor latents;  // [S, L, C] float32
  at::Tensor t;        // [S] float32
  LatentGrid grid;
};

/// One block of a sequence, in reading order. What follows sees every block but noisy ones.
using Block = std::variant<TextBlock, LatentBlock, VisionBlock, NoisyBlock>;

/// Tokens in the sequence, the two boundary tokens of each image included.
inline int64_t num_tokens(const Block& block) {
  struct Visitor {
    int64_t operator()(const TextBlock& text) const { return static_cast<int64_t>(text.ids.size()); }
    int64_t operator()(const LatentBlock& image) const { return image.grid.num_tokens() + 2; }
    int64_t operator()(const VisionBlock& image) const { return image.grid.num_tokens() + 2; }
    int64_t operator()(const NoisyBlock& states) const {
      return states.latents.size(0) * (states.grid.num_tokens() + 2);
    }
  };
  return std::visit(Visitor{}, block);
}

inline int64_t num_tokens(const std::vector<Block>& blocks) {
  int64_t tokens = 0;
  for (const Block& block : blocks) tokens += num_tokens(block);
  return tokens;
}

}  // namespace unigrpo::policy
