#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"
#include "io/image.h"
#include "media/clip.h"
#include "policy/block.h"
#include "policy/kv_cache.h"
#include "tensor/named_tensor.h"
#include "tensor/step_graph.h"

namespace unigrpo::parallel {
class ShardedModel;
}

namespace unigrpo::policy {

/// Decodes text: contexts and token ids in, logits out. No gradients.
class TextPolicy {
 public:
  virtual ~TextPolicy() = default;
  virtual const data::Tokenizer& tokenizer() const = 0;
  virtual int64_t bos_id() const = 0;         // opens a text block
  virtual int64_t eos_id() const = 0;         // closes it: the end-of-text action
  virtual int64_t max_positions() const = 0;  // rotary positions that the model knows: a token each, an image block one

  virtual Context fork(const Context& parent) = 0;
  virtual void release(Context& context) = 0;
  /// Room in the cache for so many tokens of all contexts together, made at once; more is made as it is needed.
  virtual void reserve(int64_t /*tokens*/) {}
  /// Appends ids[i] to rows[i], causally; returns the logits after each row's last token, [B, V] float32,
  /// on the policy's device.
  virtual at::Tensor append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) = 0;
};

/// A text as the ids of a block: bos, its tokens, eos.
std::vector<int64_t> block_ids(const TextPolicy& policy, const std::string& text);

/// The velocity field over fixed contexts, one evaluation a call. Keeps scratch room in the cache while it lives.
class Denoiser {
 public:
  virtual ~Denoiser() = default;
  /// latents: [B, L, C] float32 a stream, t: [B] in [0, 1] (1 is noise), of all streams, on the policy's device ->
  /// velocity dx/dt [B, L, C] float32 a stream. An image is one stream.
  virtual std::vector<at::Tensor> velocities(std::span<const at::Tensor> latents, const at::Tensor& t) = 0;
  at::Tensor velocity(const at::Tensor& latents, const at::Tensor& t) {
    return velocities(std::span(&latents, 1), t).front();
  }
};

/// Reads images into contexts and denoises new ones in latent space. No gradients here.
class ImagePolicy {
 public:
  virtual ~ImagePolicy() = default;
  virtual int64_t latent_channels() const = 0;  // C of a latent token
  /// Where the weights lie. Images and ids may come from the host; what is computed stays here.
  virtual at::Device device() const = 0;
  /// The token grid of a square image. Throws BadInput where the model cannot generate that size.
  virtual LatentGrid grid_for(int64_t image_size) const = 0;
  /// How images enter a context, image by image: as VAE tokens (the posterior mean; left out where no image is
  /// generated) and as vision tokens, resized by the model's own rule. Throws BadInput for an image that the model
  /// cannot read.
  virtual std::vector<std::vector<Block>> read_images(std::span<const Image> images, bool with_latents) = 0;
  /// Appends blocks[i], an image of one kind for all, to rows[i].
  virtual void append_images(std::span<Context* const> rows, std::span<const Block> blocks) = 0;
  virtual std::unique_ptr<Denoiser> denoise(std::span<const Context* const> rows, LatentGrid grid) = 0;
  /// latents: [B, L, C] -> B images.
  virtual std::vector<Image> decode(const at::Tensor& latents, LatentGrid grid) = 0;
};

/// How large a clip is, in pixels and frames.
struct ClipSize {
  int64_t frames = 0, height = 0, width = 0;
  double fps = 0;
};

/// Denoises clips, video and its sound together. No gradients here.
class ClipPolicy {
 public:
  virtual ~ClipPolicy() = default;
  /// C of the streams' latent tokens, video first.
  virtual std::vector<int64_t> clip_channels() const = 0;
  /// Throws BadInput naming the key of [rollout.clip] where the model cannot generate that size.
  virtual ClipShape clip_shape(const ClipSize& size) const = 0;
  /// The model's own grid t_0 = 1 .. t_N = 0 for so many video tokens.
  virtual std::vector<double> clip_times(int64_t num_steps, int64_t num_tokens) const = 0;
  virtual std::unique_ptr<Denoiser> denoise_clips(std::span<const Context* const> rows, const ClipShape& shape) = 0;
  /// latents: [B, L, C] of video and audio -> B clips: frames rounded to 8 bits, sound to 16 and as long as the frames.
  virtual std::vector<media::Clip> decode_clips(std::span<const at::Tensor> latents, const ClipShape& shape) = 0;
};

/// A sequence starts with a prefix that other sequences may share (its keys and values are computed once).
struct TrainSequence {
  int64_t prefix = 0;  // index into TrainBatch::prefixes
  std::vector<Block> blocks;
};

struct TrainBatch {
  std::vector<std::vector<Block>> prefixes;  // a prefix may be empty; no noisy images
  std::vector<TrainSequence> sequences;
  bool detach_context = false;  // no gradient from noisy images into the keys and values of their context
  uint64_t update = 0;          // of the run: part of the key of dropout
};

/// Whole, and the same, on all ranks that share the sequences.
struct TrainOutput {
  at::Tensor text_hidden;                        // [sum of text block lengths, D], sequence by sequence, block by block
  at::Tensor velocity;                           // [sum of S, L, C] float32; all noisy images of a batch have one grid
  std::vector<at::Tensor> clip_velocities = {};  // the same of noisy clips, a stream each; all of one shape
  std::vector<std::vector<ContextDigest>> digests;  // [sequences][blocks]: what had been read after each block
};

/// A forward of one batch on a rank that has a stage of the layers (parallel.plan); the batch must outlive it.
class StagedForward {
 public:
  virtual ~StagedForward() = default;
  /// What comes from the stage before and goes to the next one: [T, D] of the rows of this rank, which the ranks with
  /// its place in other stages have too. Empty memory, in the weights' dtype, on their device.
  virtual at::Tensor border() const = 0;
  /// The stage's layers, after the embeddings where it is the first, which takes none. before, returned: border()'s.
  virtual at::Tensor run(const at::Tensor& before) = 0;
  /// Of the last stage's run().
  virtual TrainOutput finish(const at::Tensor& after) = 0;
};

/// A model that does both over one set of weights.
class UnifiedPolicy : public TextPolicy, public ImagePolicy {
 public:
  /// From here on steps of decoding and denoising are recorded and played back; empty: no more, and what was recorded
  /// goes. The weights stay where they are meanwhile, and the adapters as they are.
  virtual void use_graphs(const tensor::MakeGraph& /*make*/) {}

  /// A prompt as what follows it reads it.
  virtual std::vector<Block> read_prompt(const std::string& text) { return {TextBlock{block_ids(*this, text)}}; }
  /// Positions of max_positions() that it takes. Throws BadInput for a text that cannot be read.
  virtual int64_t prompt_positions(const std::string& text) {
    return static_cast<int64_t>(block_ids(*this, text).size());
  }
  /// Appends blocks[i], encoded texts, to rows[i].
  virtual void append_encoded(std::span<Context* const> rows, std::span<const Block> blocks);
  /// Null: it draws no clips.
  virtual ClipPolicy* clips() { return nullptr; }

  /// The packed forward that training differentiates; the same layers as rollouts.
  virtual TrainOutput forward_train(const TrainBatch& batch) = 0;
  /// The same in stages, where the layers have some. With gradients or without, as when it is made.
  virtual std::unique_ptr<StagedForward> staged_forward(const TrainBatch& batch);
  /// hidden: [T, D] -> logits [T, V].
  virtual at::Tensor logits(const at::Tensor& hidden) const = 0;
  /// hidden: [T, D], ids: [T] -> [T], log-probs of those tokens (kernels/gather_log_prob.h). For training: ranks that
  /// share sequences have the same rows and divide the work.
  virtual at::Tensor log_probs(const at::Tensor& hidden, const at::Tensor& ids, double temperature) const = 0;

  /// Every parameter by official name (adapters of LoRA as "<module>.lora_A.weight", "<module>.lora_B.weight").
  virtual NamedTensors parameters() const = 0;
  /// The weights of the base's names alone, adapters merged into them: W + scale B A.
  virtual NamedTensors merged() const = 0;
  /// With LoRA: adapters on or off. Without: must stay on.
  virtual void enable_adapters(bool on) = 0;
  /// A fingerprint of the adapters: how many, on or off.
  virtual uint64_t adapter_state() const = 0;
  /// Changes with every write to a parameter.
  virtual uint64_t weights_version() const = 0;

  /// Whether the backward pass runs the layers again instead of keeping their activations.
  virtual bool recomputes() const = 0;

  /// With parallel.flexible_sp: how many neighbouring ranks may share its sequences, 1 among them; and how many do from
  /// here on, of those a whole block's ranks at once. In rollouts it is 1.
  virtual std::vector<int64_t> sequence_degrees() const { return {1}; }
  virtual void share_sequences(int64_t /*degree*/) {}

  /// What its weights are gathered by where they are spread over ranks: those of no layer first, then layer by layer in
  /// the order of a forward pass. Without the adapters every rank has them whole.
  virtual std::vector<NamedTensors> units(bool /*with_adapters*/) const { return {}; }
  /// The parameters of which ranks that divide the layers' products have slices, and along which dimension.
  virtual std::map<std::string, int64_t> sliced_dimensions() const { return {}; }
  /// Of the weights of no layer, those that are used after the last one; what is used before the first one as well is
  /// tied.
  virtual std::vector<std::string> head_names() const { return {}; }
  virtual bool is_tied(const std::string& /*name*/) const { return false; }
  /// The layers are the model's units from `first` on.
  virtual void set_sharded(const std::shared_ptr<parallel::ShardedModel>& /*model*/, size_t /*first*/) {}
  /// Null: every rank has all weights whole.
  virtual parallel::ShardedModel* sharded() const { return nullptr; }

  /// This model again, with a cache of its own: the same weights, and one switch of the adapters for both. Each may be
  /// used in a thread of its own at the same time, while nobody writes weights or turns the switch.
  virtual std::unique_ptr<UnifiedPolicy> share() const = 0;
};

/// Whether all weights are narrow (kernels/linear.h), float32 and on the CPU: what a row is computed with does not
/// change its bits, and an operation is too short to be worth more than one thread.
bool is_small(const UnifiedPolicy& policy);

/// Turns a policy's adapters off for a scope: the reference of a LoRA run.
class AdaptersOff {
 public:
  explicit AdaptersOff(UnifiedPolicy& policy) : policy_(policy) { policy_.enable_adapters(false); }
  ~AdaptersOff() { policy_.enable_adapters(true); }
  AdaptersOff(const AdaptersOff&) = delete;
  AdaptersOff& operator=(const AdaptersOff&) = delete;

 private:
  UnifiedPolicy& policy_;
};

}  // namespace unigrpo::policy
