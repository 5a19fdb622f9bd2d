#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "base/conflict.h"
#include "rollout/config.h"

namespace unigrpo::rollout {

bool has_segment(const RolloutConfig& config, data::SegmentKind kind);

/// The modalities of what is denoised, in the order of their streams: image, or video and audio.
std::vector<std::string_view> flow_modalities(const RolloutConfig& config);

/// How a stream moves in its window; nothing where it goes by ODE all the way.
std::optional<flow::SdeConfig> sde_of(const RolloutConfig& config, std::string_view modality);

/// What is wrong with [rollout].
std::optional<Conflict> validate(const RolloutConfig& config);

/// Tokens of one image, or clip.
struct ImageTokens {
  int64_t block = 0;  // while it is denoised: its latents and, of an image, the two tokens around them
  int64_t seen = 0;   // as later segments see it, by the vision tower: the same with its patches
};

/// Tokens of one sample, at most.
struct SampleTokens {
  int64_t sampled = 0;            // of all texts, their end tokens included
  int64_t texts = 0;              // of the texts as blocks of a context: with the two tokens around each
  int64_t images = 0;             // of images as later segments see them
  int64_t denoised = 0;           // of images, once a denoising step
  int64_t trained = 0;            // of images, once a trained step
  int64_t num_trained_steps = 0;  // of an image
};
SampleTokens count_tokens(const RolloutConfig& config, ImageTokens image);

/// How many images of so many latent tokens are decoded to pixels together: 64 of 64 x 64 pixels, one of 512 x 512.
int64_t images_decoded_together(int64_t latent_tokens);

}  // namespace unigrpo::rollout
