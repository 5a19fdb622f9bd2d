#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/config.h"
#include "policy/family.h"
#include "policy/ltx2/model.h"
#include "policy/ltx2/text.h"
#include "policy/policy.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// LTX-2 as a policy: a prompt comes encoded (text.h), and what is drawn is a clip, a video with its sound. Only the
/// transformer trains, all of its weights; parameters are `transformer.<name in the component>`. Whatever is about text
/// that is written, or images, throws BadInput.
class Ltx2 final : public UnifiedPolicy, private ClipPolicy {
 public:
  /// A diffusers folder (Model::load). Text features come from `config.text`, or from the folder's text_encoder/ where
  /// its class is UniGRPOTextEncoder. Throws BadInput naming file or key: a folder without either, LoRA, recomputed
  /// activations, ranks that share layers or sequences.
  static std::unique_ptr<Ltx2> load(const PolicyConfig& config, const Runtime& runtime);
  [[noreturn]] static ModelSizes read_sizes(const std::filesystem::path& folder);
  static SamplingDefaults sampling_defaults(const std::filesystem::path& /*folder*/) { return {}; }

  const data::Tokenizer& tokenizer() const override { refuse("writes no text"); }
  int64_t bos_id() const override { refuse("writes no text"); }
  int64_t eos_id() const override { return -1; }
  int64_t max_positions() const override;
  Context fork(const Context& parent) override;
  void release(Context& context) override;
  at::Tensor append_text(std::span<Context* const>, std::span<const std::vector<int64_t>>) override {
    refuse("writes no text");
  }
  at::Tensor logits(const at::Tensor&) const override { refuse("writes no text"); }
  at::Tensor log_probs(const at::Tensor&, const at::Tensor&, double) const override { refuse("writes no text"); }

  int64_t latent_channels() const override { refuse("draws no images"); }
  at::Device device() const override { return device_; }
  LatentGrid grid_for(int64_t) const override { refuse("draws no images"); }
  std::vector<std::vector<Block>> read_images(std::span<const Image>, bool) override { refuse("reads no images"); }
  void append_images(std::span<Context* const>, std::span<const Block>) override { refuse("reads no images"); }
  std::unique_ptr<Denoiser> denoise(std::span<const Context* const>, LatentGrid) override { refuse("draws no images"); }
  std::vector<Image> decode(const at::Tensor&, LatentGrid) override { refuse("draws no images"); }

  /// The connectors' output, one block.
  std::vector<Block> read_prompt(const std::string& text) override;
  int64_t prompt_positions(const std::string& text) override { return text_->states(text).size(0); }
  void append_encoded(std::span<Context* const> rows, std::span<const Block> blocks) override;
  ClipPolicy* clips() override { return this; }

  TrainOutput forward_train(const TrainBatch& batch) override;
  NamedTensors parameters() const override { return parameters_; }
  NamedTensors merged() const override { return parameters_; }
  void enable_adapters(bool /*on*/) override {}
  uint64_t adapter_state() const override { return 0; }
  uint64_t weights_version() const override;
  bool recomputes() const override { return false; }
  std::unique_ptr<UnifiedPolicy> share() const override { return std::unique_ptr<Ltx2>(new Ltx2(*this)); }

  // For supervised training, which trains what reads texts as well.

  const ltx2::Model& model() const { return *model_; }
  const ltx2::TextSource& text() const { return *text_; }
  /// Of the connectors, `connectors.<name>`, and of the folder's own text encoder, `text_encoder.<name>`.
  NamedTensors text_parameters() const;
  /// A text as read_prompt has it, on the policy's device, with gradients; nullptr: no text, the connectors' registers
  /// alone. Throws BadInput where these have none to stand for it.
  EncodedBlock encode_text(const std::string* text) const;
  /// Latent tokens [B, L, C] of both streams, normalised, of clips of one size whose frames and sound the autoencoders
  /// take: posterior means.
  ltx2::Both<at::Tensor> encode_clips(std::span<const media::Clip> clips) const;
  /// Of rows, each under its own text and with its own t a stream, with gradients. latents: [R, L, C] a stream, t: [R]
  /// in [0, 1]. isolated: without attention between the streams.
  std::vector<at::Tensor> velocities(std::span<const EncodedBlock* const> texts, std::span<const at::Tensor> latents,
                                     const ltx2::Both<at::Tensor>& t, const ltx2::ClipPositions& positions,
                                     bool isolated = false) const;
  ClipShape clip_shape(const ClipSize& size) const override;
  ltx2::ClipPositions positions(const ClipShape& shape) const;

 private:
  class ClipDenoiser;
  Ltx2() = default;
  /// Shares all but the contexts.
  Ltx2(const Ltx2& other);
  [[noreturn]] void refuse(const char* what) const;

  std::vector<int64_t> clip_channels() const override;
  std::vector<double> clip_times(int64_t num_steps, int64_t num_tokens) const override;
  std::unique_ptr<Denoiser> denoise_clips(std::span<const Context* const> rows, const ClipShape& shape) override;
  std::vector<media::Clip> decode_clips(std::span<const at::Tensor> latents, const ClipShape& shape) override;

  std::shared_ptr<const ltx2::Model> model_;
  std::shared_ptr<ltx2::TextSource> text_;
  int64_t text_length_ = 0;
  at::Device device_ = at::kCPU;
  NamedTensors parameters_;
  std::map<int64_t, std::shared_ptr<const EncodedBlock>> read_;  // by the number in a context's `blocks`
  int64_t next_number_ = 0;
};

}  // namespace unigrpo::policy
