#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace unigrpo::policy {

/// A grid of latent tokens, or of vision patches.
struct LatentGrid {
  int64_t height = 0, width = 0;
  int64_t num_tokens() const { return height * width; }
  bool operator==(const LatentGrid&) const = default;
};

/// One block of a sequence, in reading order. What follows sees every block but noisy images.
struct Block {
  enum class Kind {
    text,        // causal
    latents,     // a clean image as VAE tokens at t = 0; all its tokens see each other
    vision,      // a clean image as tokens of the vision tower; all see each other
    noisy_image  // states of an image that is being drawn: each sees the context and itself
  };
  Kind kind = Kind::text;
  std::vector<int64_t> ids = {};  // text: token ids, e.g. bos y_1..y_K eos
  at::Tensor latents = {};        // latents: [L, C] float32; noisy_image: [S, L, C], S states that share the context
  at::Tensor t = {};              // noisy_image: [S] float32
  at::Tensor pixels = {};         // vision: [3, H, W] float32 in [-1, 1], sides divisible by the patch
  LatentGrid grid = {};           // of the image's tokens

  /// Tokens in the sequence, the two boundary tokens of each image included.
  int64_t num_tokens() const {
    if (kind == Kind::text) return static_cast<int64_t>(ids.size());
    return (kind == Kind::noisy_image ? latents.size(0) : 1) * (grid.num_tokens() + 2);
  }
};

inline Block text_block(std::vector<int64_t> ids) { return {.kind = Block::Kind::text, .ids = std::move(ids)}; }

inline Block noisy_image_block(at::Tensor latents, at::Tensor t, LatentGrid grid) {
  return {.kind = Block::Kind::noisy_image, .latents = std::move(latents), .t = std::move(t), .grid = grid};
}

inline int64_t num_tokens(const std::vector<Block>& blocks) {
  int64_t tokens = 0;
  for (const Block& block : blocks) tokens += block.num_tokens();
  return tokens;
}

}  // namespace unigrpo::policy
