#pragma once

#include <cstdint>
#include <deque>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "policy/bagel/bagel.h"
#include "policy/policy.h"
#include "policy/qwen2/qwen2.h"
#include "runtime/runtime.h"

namespace unigrpo::policy {

/// What config.json of a pair's folder says: the folders of its halves within it, each one name.
struct PairFolders {
  std::string text, image;
};

/// In front of the names of a half's parameters.
inline constexpr char kTextPrefix[] = "text.", kImagePrefix[] = "image.";

/// Throws BadInput naming file and key, also for a folder of another family and where a half's folder is not there.
PairFolders read_pair_config(const std::filesystem::path& folder);

/// Two separate models as one policy: a Qwen2.5 model decodes text, a BAGEL model reads it and generates images; its
/// writing head is not used. Each half reads the text into a context of its own. Images are read by the image model
/// alone: text that follows one is decoded by a model that has not seen it, and an episode without an image refuses
/// prompts with images.
///
/// The image model reads a text block when its end token comes, in one forward. So an image stands between closed
/// blocks only (std::invalid_argument otherwise), here and in a TrainBatch.
///
/// Of a Context, `slots` and `position` are those of the image model, which reads everything; the digest is of both. It
/// owns an entry in this class, whose index stands in `blocks`.
class Paired final : public UnifiedPolicy {
 public:
  /// Loads both halves. Freeze and LoRA patterns are held against a weight's name with its half's prefix and without
  /// it; a half that LoRA does not reach stays as it is. Throws BadInput as the halves do, where their tokenizers
  /// differ, where the text model has more ids than the image model, and where no weight matches a LoRA target.
  static std::unique_ptr<Paired> load(const PolicyConfig& config, const Runtime& runtime);
  /// Throws BadInput: a pair has no one set of sizes.
  [[noreturn]] static ModelSizes read_sizes(const std::filesystem::path& folder);
  /// The image model's, without its prompt: another writes the plan.
  static SamplingDefaults sampling_defaults(const std::filesystem::path& folder);

  const data::Tokenizer& tokenizer() const override { return text_->tokenizer(); }
  int64_t bos_id() const override { return text_->bos_id(); }
  int64_t eos_id() const override { return text_->eos_id(); }
  int64_t max_positions() const override;
  Context fork(const Context& parent) override;
  void release(Context& context) override;
  void reserve(int64_t tokens) override;
  void use_graphs(const tensor::MakeGraph& make) override;
  at::Tensor append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) override;

  int64_t latent_channels() const override { return image_->latent_channels(); }
  LatentGrid grid_for(int64_t image_size) const override { return image_->grid_for(image_size); }
  std::vector<std::vector<Block>> read_images(std::span<const Image> images, bool with_latents) override;
  void append_images(std::span<Context* const> rows, std::span<const Block> blocks) override;
  std::unique_ptr<Denoiser> denoise(std::span<const Context* const> rows, LatentGrid grid) override;
  std::vector<Image> decode(const at::Tensor& latents, LatentGrid grid) override {
    return image_->decode(latents, grid);
  }

  TrainOutput forward_train(const TrainBatch& batch) override;
  at::Tensor logits(const at::Tensor& hidden) const override { return text_->logits(hidden); }
  at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& ids, double temperature) const override {
    return text_->log_probs(hidden, ids, temperature);
  }

  NamedTensors parameters() const override;
  NamedTensors merged() const override;
  void enable_adapters(bool on) override;
  uint64_t adapter_state() const override;
  uint64_t weights_version() const override;
  bool recomputes() const override { return text_->recomputes(); }
  std::vector<int64_t> sequence_degrees() const override;
  void share_sequences(int64_t degree) override;
  std::vector<NamedTensors> units(bool with_adapters) const override;
  std::map<std::string, int64_t> sliced_dimensions() const override;
  void set_sharded(const std::shared_ptr<parallel::ShardedModel>& model, size_t first) override;
  parallel::ShardedModel* sharded() const override { return text_->sharded(); }
  std::unique_ptr<UnifiedPolicy> share() const override {
    return std::unique_ptr<Paired>(new Paired(text_->another(), image_->another(), folder_));
  }
  at::Device device() const override { return image_->device(); }

 private:
  /// What each half has read; `unread`: ids of an open text block, which the image model has yet to read.
  struct Halves {
    Context text, image;
    std::vector<int64_t> unread;
  };

  Paired(std::unique_ptr<Qwen2> text, std::unique_ptr<Bagel> image, std::string folder);
  Halves& halves(Context& context);
  /// For an image to come. Throws std::invalid_argument within an open block.
  const Halves& closed(const Context& context) const;
  /// Makes a context say what its halves say.
  static void show(Context& context, const Halves& halves);

  std::unique_ptr<Qwen2> text_;
  std::unique_ptr<Bagel> image_;
  std::string folder_;
  std::deque<Halves> entries_;  // addresses stay
  std::vector<int64_t> free_;
};

}  // namespace unigrpo::policy
