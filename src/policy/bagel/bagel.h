#pragma once

#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/image_resize.h"
#include "policy/bagel/autoencoder.h"
#include "policy/bagel/vision_tower.h"
#include "policy/config.h"
#include "policy/family.h"
#include "policy/mot_policy.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// What config.json, llm_config.json and vit_config.json of a BAGEL folder say.
struct BagelConfig {
  static constexpr int64_t kTimeFeatures = 256;  // of the official TimestepEmbedder

  MotConfig llm;
  VisionConfig vit;
  AutoencoderConfig vae;
  int64_t latent_patch_size = 2;
  int64_t max_latent_size = 64;
  int64_t vit_max_patches_per_side = 70;
  double timestep_shift = 1.0;

  int64_t latent_channels() const { return latent_patch_size * latent_patch_size * vae.z_channels; }
  int64_t pixels_per_token() const { return vae.downsample() * latent_patch_size; }
  /// How images are resized for the autoencoder and, from there, for the vision tower. With the official sizes these
  /// are the official rules: 512..1024 pixels in steps of 16, and 224..980 in steps of 14.
  data::ImageSizeRule latents_rule() const;
  data::ImageSizeRule vision_rule() const;
};

/// Throws BadInput naming file and key, also for a folder of another family.
BagelConfig read_bagel_config(const std::filesystem::path& folder);

/// BAGEL (Deng et al., arXiv 2505.14683): one mixture-of-transformers for text, and images by flow matching.
class Bagel final : public MotPolicy {
 public:
  /// Loads an official folder: ema.safetensors (or a sharded index), ae.safetensors, the config files, the tokenizer.
  /// Weights come in `config.dtype`; the autoencoder in float32. Attaches adapters where config.train = lora (keyed by
  /// `runtime.seed`).
  static std::unique_ptr<Bagel> load(const PolicyConfig& config, const Runtime& runtime);
  /// A folder without ema.safetensors: fresh float32 weights (see initial_weight), keyed by `runtime.seed`.
  static std::unique_ptr<Bagel> create(const std::filesystem::path& folder, const Runtime& runtime);

  /// Every weight of a model of these sizes by its official name, without memory (meta tensors); `autoencoder.` before
  /// those of ae.safetensors.
  static NamedTensors shapes(const BagelConfig& config);
  static ModelSizes read_sizes(const std::filesystem::path& folder);
  static SamplingDefaults sampling_defaults(const std::filesystem::path& folder);

  int64_t latent_channels() const override { return config_.latent_channels(); }
  LatentGrid grid_for(int64_t image_size) const override;
  std::vector<std::vector<Block>> read_images(std::span<const Image> images, bool with_latents) override;
  void append_images(std::span<Context* const> rows, std::span<const Block> blocks) override;
  std::unique_ptr<Denoiser> denoise(std::span<const Context* const> rows, LatentGrid grid) override;
  std::vector<Image> decode(const at::Tensor& latents, LatentGrid grid) override;

  std::vector<std::string> head_names() const override;
  std::unique_ptr<UnifiedPolicy> share() const override { return another(); }
  std::unique_ptr<Bagel> another() const { return std::unique_ptr<Bagel>(new Bagel(*this)); }

  const BagelConfig& config() const { return config_; }
  const Autoencoder& autoencoder() const { return *autoencoder_; }
  const VisionTower& vision() const { return *vision_; }
  /// images -> latent tokens of the posterior mean, [B, L, C].
  at::Tensor encode_images(const at::Tensor& images) const;

 private:
  friend class BagelDenoiser;
  TrainForward begin_train(const TrainBatch& batch) const override;
  at::Tensor embeds_of(const TrainForward& forward) const override;
  TrainOutput finish_train(const TrainForward& forward, const at::Tensor& hidden) const override;
  Bagel(const Bagel&) = default;
  Bagel(const BagelConfig& config, nn::Weights weights, std::unique_ptr<Autoencoder> autoencoder,
        std::unique_ptr<data::Tokenizer> tokenizer, const std::filesystem::path& folder);
  /// Takes the weights that belong to no part of their own: latents in and out, time.
  struct Ends {
    nn::Linear vae2llm, llm2vae, time_fc1, time_fc2;
    at::Tensor latent_positions;
  };
  static Ends take_ends(const BagelConfig& config, nn::Weights& weights);
  /// latents: [N, L, C], t: [N] -> embeddings of the latent tokens [N * L, D].
  at::Tensor embed_latents(const at::Tensor& latents, const at::Tensor& t, LatentGrid grid) const;
  /// Clean images as tokens, [sum of their tokens, D], block by block; neighbours of one size are computed together.
  at::Tensor embed_clean_latents(std::span<const LatentBlock* const> blocks) const;
  at::Tensor embed_vision(std::span<const VisionBlock* const> blocks) const;
  /// [num_noisy, C] float32, on all ranks that share the rows.
  at::Tensor velocity_of(const at::Tensor& hidden, const PackedTokens& tokens, const Placement& placed) const;

  BagelConfig config_;
  std::shared_ptr<const VisionTower> vision_;
  std::shared_ptr<const Autoencoder> autoencoder_;
  nn::Linear vae2llm_, llm2vae_, time_fc1_, time_fc2_;
  at::Tensor latent_positions_;
  int64_t image_start_ = 0, image_end_ = 0;
};

/// RGB8 images of one size -> [B, 3, height, width] float32 in [-1, 1].
at::Tensor to_pixels(std::span<const Image> images);

/// Opens ae.safetensors of a folder in float32 on the device. Throws BadInput naming file and tensor.
std::unique_ptr<Autoencoder> load_autoencoder(const std::filesystem::path& folder, const AutoencoderConfig& config,
                                              at::Device device);

}  // namespace unigrpo::policy
