#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "nn/weights.h"
#include "video/posterior.h"

namespace unigrpo::video {

/// config.json of class AutoencoderKLLTX2Audio.
struct AudioVaeConfig {
  int64_t base_channels = 128, in_channels = 2, output_channels = 2, latent_channels = 8;
  std::vector<int64_t> ch_mult = {1, 2, 4};
  int64_t num_res_blocks = 2;
  int64_t resolution = 256;               // where attn_resolutions count from
  std::vector<int64_t> attn_resolutions;  // levels with attention
  bool group_norm = false;                // else RMS over the channels
  std::string causality_axis = "height";  // none, height (time), width, width-compatibility
  bool mid_block_add_attention = false;
  int64_t sample_rate = 16000, mel_hop_length = 160, mel_bins = 64;
  bool lapped = false;  // _front_end: what is encoded is no log-mel spectrogram but lapped.h's

  static constexpr int64_t kRatio = 4;  // mel frames and bins a latent
  int64_t latent_mel_bins() const { return mel_bins / kRatio; }
  double latents_per_second() const {
    return static_cast<double>(sample_rate) / static_cast<double>(mel_hop_length * kRatio);
  }
};

/// Throws BadInput naming file and key.
AudioVaeConfig read_audio_vae_config(const std::filesystem::path& file);

/// The autoencoder of LTX-2's sound (arXiv 2601.03233; diffusers 0.42.1, AutoencoderKLLTX2Audio): 2-D convolutions over
/// log-mel spectrograms, causal in time.
class AudioVae {
 public:
  AudioVae(const AudioVaeConfig& config, nn::Weights& weights);
  ~AudioVae();
  AudioVae(AudioVae&&) noexcept;
  AudioVae& operator=(AudioVae&&) noexcept;

  const AudioVaeConfig& config() const { return config_; }

  /// log_mel: [B, channels, frames, mel_bins] -> [B, C, T, M] in the autoencoder's own units.
  Posterior encode(const at::Tensor& log_mel) const;
  /// [B, C, T, M] in the autoencoder's own units -> [B, channels, 4 T - 3, mel_bins].
  at::Tensor decode(const at::Tensor& latents) const;

  /// (x - mean) / std of packed latents [B, T, C M], whose statistics are a feature each; and back.
  at::Tensor normalize(const at::Tensor& tokens) const;
  at::Tensor denormalize(const at::Tensor& tokens) const;

 private:
  struct Encoder;
  struct Decoder;
  AudioVaeConfig config_;
  at::Tensor latents_mean_, latents_std_;  // [C M]
  std::unique_ptr<Encoder> encoder_;
  std::unique_ptr<Decoder> decoder_;
};

}  // namespace unigrpo::video
