#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace unigrpo::video {

struct MelConfig {
  int64_t sample_rate = 16000;
  int64_t n_fft = 1024;  // window and transform; periodic Hann
  int64_t hop_length = 160;
  int64_t num_bins = 64;
};

/// wave: [..., samples] float -> [..., 1 + samples / hop, num_bins]: natural log of Slaney's mel bands (scale and
/// norm) of the magnitudes of centred, reflected frames, at least 1e-5. What LTX-2's audio autoencoder reads
/// (ltx-core 1.0.0). Throws std::invalid_argument for a wave that is too short to reflect (n_fft / 2 samples or less).
at::Tensor log_mel(const at::Tensor& wave, const MelConfig& config);

/// Slaney's bank of triangles from 0 Hz to half the rate, each of area 1 (librosa's `mel` with its defaults):
/// [n_fft / 2 + 1, num_bins] float32.
at::Tensor mel_bank(const MelConfig& config);

}  // namespace unigrpo::video
