#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/weights.h"

namespace unigrpo::video {

/// One generator: config.json of class LTX2Vocoder, or one half of LTX2VocoderWithBWE's.
struct GeneratorConfig {
  int64_t in_channels = 128, hidden_channels = 1024, out_channels = 2;
  std::vector<int64_t> upsample_kernel_sizes = {}, upsample_factors = {}, resnet_kernel_sizes = {};
  std::vector<std::vector<int64_t>> resnet_dilations = {};
  std::string act_fn = "leaky_relu";  // leaky_relu, snake, snakebeta
  double negative_slope = 0.1;        // of leaky_relu
  bool antialias = false;             // of the blocks' activations
  int64_t antialias_ratio = 2, antialias_kernel_size = 12;
  std::string final_act_fn = {};  // tanh, clamp or nothing
  bool final_bias = true;
};

struct BandwidthExtensionConfig {
  GeneratorConfig generator;
  int64_t filter_length = 512, hop_length = 80, window_length = 512, num_mel_channels = 64;
  int64_t input_rate = 16000;
};

struct VocoderConfig {
  GeneratorConfig generator;
  std::optional<BandwidthExtensionConfig> extension;
  int64_t output_rate = 24000;
};

/// Throws BadInput naming file and key.
VocoderConfig read_vocoder_config(const std::filesystem::path& file);

/// Log-mel spectrograms to waves: LTX-2.0's (HiFi-GAN, arXiv 2010.05646) and LTX-2.3's, whose activations are
/// antialiased (BigVGAN, arXiv 2206.04658) and whose second generator adds what lies above the first one's band. After
/// diffusers 0.42.1, LTX2Vocoder and LTX2VocoderWithBWE.
class Vocoder {
 public:
  Vocoder(const VocoderConfig& config, nn::Weights& weights);
  ~Vocoder();
  Vocoder(Vocoder&&) noexcept;
  Vocoder& operator=(Vocoder&&) noexcept;

  const VocoderConfig& config() const { return config_; }

  /// log_mel: [B, channels, frames, bins] -> [B, channels, samples] at the output rate.
  at::Tensor operator()(const at::Tensor& log_mel) const;

 private:
  struct Generator;
  struct Extension;
  VocoderConfig config_;
  std::unique_ptr<Generator> generator_;
  std::unique_ptr<Extension> extension_;
};

}  // namespace unigrpo::video
