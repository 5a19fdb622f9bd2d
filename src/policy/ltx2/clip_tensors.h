#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "media/clip.h"
#include "policy/ltx2/model.h"

namespace unigrpo::policy::ltx2 {

/// Clips as the autoencoders read them.
struct ClipTensors {
  at::Tensor frames;  // [B, 3, F, H, W] in [-1, 1]
  at::Tensor sound;   // [B, 2, 4 T - 3, bins]: what the audio autoencoder's front end makes of the wave
};

/// Of clips of one size, on the model's device. Throws BadInput naming what does not fit the model: sides, the number
/// of frames, the rate and number of channels of the sound.
ClipTensors clip_tensors(std::span<const media::Clip> clips, const Model& model);

}  // namespace unigrpo::policy::ltx2
