#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/config.h"
#include "policy/family.h"
#include "policy/mot_policy.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// What config.json of a Qwen2 or Qwen2.5 folder says. Throws BadInput naming file and key, also for a folder of
/// another family and for sliding windows and scaled rotary positions.
MotConfig read_qwen2_config(const std::filesystem::path& folder);

/// Qwen2.5 (Qwen2.5 technical report, arXiv 2412.15115), a model of text alone: the layers of BAGEL's understanding
/// weights but for qk-norm. Blocks are as BAGEL's, <|im_start|> text <|im_end|>. Whatever is about images throws
/// BadInput.
class Qwen2 final : public MotPolicy {
 public:
  /// Loads an official folder: config.json, model.safetensors (or a sharded index), the tokenizer; lm_head.weight where
  /// it is not tied to the embeddings. Weights come in `config.dtype`. Attaches adapters where config.train = lora
  /// (keyed by `runtime.seed`).
  static std::unique_ptr<Qwen2> load(const PolicyConfig& config, const Runtime& runtime);

  /// Every weight of a model of these sizes by its official name, without memory (meta tensors).
  static NamedTensors shapes(const MotConfig& config);
  static ModelSizes read_sizes(const std::filesystem::path& folder);
  static SamplingDefaults sampling_defaults(const std::filesystem::path& /*folder*/) { return {}; }

  int64_t latent_channels() const override { refuse_images(); }
  LatentGrid grid_for(int64_t) const override { refuse_images(); }
  std::vector<std::vector<Block>> read_images(std::span<const Image>, bool) override { refuse_images(); }
  void append_images(std::span<Context* const>, std::span<const Block>) override { refuse_images(); }
  std::unique_ptr<Denoiser> denoise(std::span<const Context* const>, LatentGrid) override { refuse_images(); }
  std::vector<Image> decode(const at::Tensor&, LatentGrid) override { refuse_images(); }

  std::unique_ptr<UnifiedPolicy> share() const override { return another(); }
  std::unique_ptr<Qwen2> another() const { return std::unique_ptr<Qwen2>(new Qwen2(*this)); }

 private:
  TrainForward begin_train(const TrainBatch& batch) const override;
  at::Tensor embeds_of(const TrainForward& forward) const override;
  TrainOutput finish_train(const TrainForward& forward, const at::Tensor& hidden) const override;
  Qwen2(const Qwen2&) = default;
  Qwen2(const MotConfig& config, nn::Weights weights, std::unique_ptr<data::Tokenizer> tokenizer,
        const std::filesystem::path& folder);
  [[noreturn]] void refuse_images() const;
};

/// Throws BadInput: the model of `folder` writes text only.
[[noreturn]] void refuse_images(const std::string& folder);

}  // namespace unigrpo::policy
