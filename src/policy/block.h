#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <variant>
#include <vector>

namespace unigrpo::policy {

/// A grid of latent tokens, frame by frame, or of vision patches.
struct LatentGrid {
  int64_t height = 0, width = 0;
  int64_t frames = 1;
  int64_t num_tokens() const { return frames * height * width; }
  bool operator==(const LatentGrid&) const = default;
};

/// The latents of a clip, on one clock: those of the video, and those of its sound, one row of them.
struct ClipShape {
  LatentGrid video, audio;
  double fps = 0;  // of the frames that the video is decoded to
  int64_t num_tokens() const { return video.num_tokens() + audio.num_tokens(); }
  bool operator==(const ClipShape&) const = default;
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

/// A text as an encoder made it, a tensor for each stream that attends to it.
struct EncodedBlock {
  std::vector<at::Tensor> text;  // [L, D] each
  at::Tensor mask;               // [L]: 1 where there is text
};

/// S states of latents that are being denoised: each sees the context and itself, and nothing sees them.
struct NoisyBlock {
  at::Tensor latents;  // [S, L, C] float32
  at::Tensor t;        // [S] float32
  LatentGrid grid;
};

/// The same of a clip: both streams at the same times, which see each other.
struct NoisyClip {
  std::vector<at::Tensor> latents;  // [S, L, C] float32, video and audio
  at::Tensor t;                     // [S] float32
  ClipShape shape;
};

/// One block of a sequence, in reading order. What follows sees every block but noisy ones.
using Block = std::variant<TextBlock, LatentBlock, VisionBlock, NoisyBlock, EncodedBlock, NoisyClip>;

/// Tokens in the sequence, the two boundary tokens of each image included.
inline int64_t num_tokens(const Block& block) {
  struct Visitor {
    int64_t operator()(const TextBlock& text) const { return static_cast<int64_t>(text.ids.size()); }
    int64_t operator()(const LatentBlock& image) const { return image.grid.num_tokens() + 2; }
    int64_t operator()(const VisionBlock& image) const { return image.grid.num_tokens() + 2; }
    int64_t operator()(const NoisyBlock& states) const {
      return states.latents.size(0) * (states.grid.num_tokens() + 2);
    }
    int64_t operator()(const EncodedBlock& text) const { return text.mask.size(0); }
    int64_t operator()(const NoisyClip& states) const { return states.t.size(0) * states.shape.num_tokens(); }
  };
  return std::visit(Visitor{}, block);
}

inline int64_t num_tokens(const std::vector<Block>& blocks) {
  int64_t tokens = 0;
  for (const Block& block : blocks) tokens += num_tokens(block);
  return tokens;
}

}  // namespace unigrpo::policy
