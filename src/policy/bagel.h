#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/image_resize.h"
#include "policy/autoencoder.h"
#include "policy/config.h"
#include "policy/mot_transformer.h"
#include "policy/policy.h"
#include "policy/vision_tower.h"

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
  /// How pictures are resized for the autoencoder and, from there, for the vision tower. With the official sizes these are
  /// the official rules: 512..1024 pixels in steps of 16, and 224..980 in steps of 14.
  data::ImageSizeRule latents_rule() const;
  data::ImageSizeRule vision_rule() const;
};

/// Throws BadInput naming file and key.
BagelConfig read_bagel_config(const std::filesystem::path& folder);

/// The file that opens the folder's weights: ema.safetensors, or the index of its shards; nothing where there are none.
std::optional<std::filesystem::path> find_weights(const std::filesystem::path& folder);

/// BAGEL (Deng et al., arXiv 2505.14683): one mixture-of-transformers that writes text and draws by flow matching.
class Bagel final : public UnifiedPolicy {
 public:
  /// Loads an official folder: ema.safetensors (or a sharded index), ae.safetensors, the config files, the tokenizer.
  /// Weights come in `config.dtype`; the autoencoder in float32. Attaches adapters where config.train = lora (keyed by `seed`).
  static std::unique_ptr<Bagel> load(const PolicyConfig& config, uint64_t seed);
  /// A folder without ema.safetensors: fresh float32 weights (see initial_weight), keyed by `seed`.
  static std::unique_ptr<Bagel> create(const std::filesystem::path& folder, uint64_t seed);

  /// Every weight of a model of these sizes by its official name, without memory (meta tensors); `autoencoder.` before those
  /// of ae.safetensors.
  static NamedTensors shapes(const BagelConfig& config);

  const data::Tokenizer& tokenizer() const override { return *tokenizer_; }
  int64_t bos_id() const override { return bos_; }
  int64_t eos_id() const override { return eos_; }
  Context fork(const Context& parent) override { return cache_.fork(parent); }
  void release(Context& context) override { cache_.release(context); }
  at::Tensor append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) override;

  int64_t latent_channels() const override { return config_.latent_channels(); }
  LatentGrid grid_for(int64_t image_size) const override;
  std::vector<std::vector<Block>> read_images(std::span<const Image> images, bool with_latents) override;
  void append_images(std::span<Context* const> rows, std::span<const Block> blocks) override;
  std::unique_ptr<Denoiser> denoise(std::span<const Context* const> rows, LatentGrid grid) override;
  std::vector<Image> decode(const at::Tensor& latents, LatentGrid grid) override;

  TrainOutput forward_train(const TrainBatch& batch) override;
  at::Tensor logits(const at::Tensor& hidden) const override { return llm_->logits(hidden); }
  NamedTensors parameters() const override;
  NamedTensors merged() const override;
  void enable_adapters(bool on) override { adapters_on_ = on; }
  uint64_t adapter_state() const override;
  uint64_t weights_version() const override;

  const BagelConfig& config() const { return config_; }
  const Autoencoder& autoencoder() const { return *autoencoder_; }
  const VisionTower& vision() const { return *vision_; }
  /// images -> latent tokens of the posterior mean, [B, L, C].
  at::Tensor encode_images(const at::Tensor& images) const;

 private:
  friend class BagelDenoiser;
  Bagel(const BagelConfig& config, nn::Weights weights, std::unique_ptr<Autoencoder> autoencoder,
        std::unique_ptr<data::Tokenizer> tokenizer, const std::filesystem::path& folder);
  /// Takes the weights that belong to no part of their own: latents in and out, time.
  struct Ends {
    nn::Linear vae2llm, llm2vae, time_fc1, time_fc2;
    at::Tensor latent_positions;
  };
  static Ends take_ends(const BagelConfig& config, nn::Weights& weights);
  void attach_lora(const LoraConfig& lora, uint64_t seed);
  /// latents: [N, L, C], t: [N] -> embeddings of the latent tokens [N * L, D].
  at::Tensor embed_latents(const at::Tensor& latents, const at::Tensor& t, LatentGrid grid) const;
  /// Clean images as tokens, [sum of their tokens, D], block by block; neighbours of one size are computed together.
  at::Tensor embed_clean_latents(std::span<const Block* const> blocks) const;
  at::Tensor embed_vision(std::span<const Block* const> blocks) const;
  at::Device device() const;

  BagelConfig config_;
  NamedTensors parameters_;
  bool adapters_on_ = true;
  std::unique_ptr<MotTransformer> llm_;
  std::unique_ptr<VisionTower> vision_;
  std::unique_ptr<Autoencoder> autoencoder_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  nn::Linear vae2llm_, llm2vae_, time_fc1_, time_fc2_;
  at::Tensor latent_positions_;
  KvCache cache_;
  int64_t bos_ = 0, eos_ = 0, image_start_ = 0, image_end_ = 0;
};

/// RGB8 images of one size -> [B, 3, height, width] float32 in [-1, 1].
at::Tensor to_pixels(std::span<const Image> images);

/// Opens ae.safetensors of a folder in float32. Throws BadInput naming file and tensor.
std::unique_ptr<Autoencoder> load_autoencoder(const std::filesystem::path& folder, const AutoencoderConfig& config);

/// A fresh weight, keyed by (seed, name): norms 1, biases 0, position tables sine-cosine, llm2vae 0 (the first velocity is 0,
/// as in the official init), convolutions and linears N(0, 1 / fan_in), those that close a residual branch divided by
/// sqrt(2 num_layers), token embeddings N(0, 0.5), lm_head N(0, 0.02).
at::Tensor initial_weight(const BagelConfig& config, const std::string& name, const std::vector<int64_t>& shape,
                          uint64_t seed);

}  // namespace unigrpo::policy
