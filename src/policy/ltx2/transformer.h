#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "nn/linear.h"
#include "nn/weights.h"
#include "policy/ltx2/positions.h"

namespace unigrpo::policy::ltx2 {

/// What a config.json of the folder may ask for.
inline constexpr int64_t kMostHeads = 1024, kMostChannels = 1 << 16, kMostLayers = 1024;

/// One of a kind for each stream.
template <typename T>
struct Both {
  T video, audio;
};

/// What config.json says of one stream.
struct StreamConfig {
  int64_t in_channels = 128, out_channels = 128;
  int64_t heads = 32, head_dim = 128;
  int64_t context_dim = 4096;   // of the text that attention reads
  double max_seconds = 20;      // pos_embed_max_pos
  bool gated = false;           // gates of attention
  bool text_modulated = false;  // 9 modulations instead of 6
  bool ff_bias = true;

  int64_t width() const { return heads * head_dim; }
};

/// config.json of class LTX2VideoTransformer3DModel: LTX-2.0, 2.3 and 2.5 are settings of it.
struct TransformerConfig {
  Both<StreamConfig> streams = {.video = {}, .audio = {.head_dim = 64, .context_dim = 2048}};
  int64_t num_layers = 48;
  int64_t caption_channels = 3840;    // text features that are projected here,
  bool use_prompt_embeddings = true;  // as in 2.0
  bool use_prompt_adaln_single = true;
  bool keyframes = false;  // use_keyframes_abs_pos_embedding
  bool perturbed = false;  // perturbed_attn: self-attentions may return their values
  bool attention_bias = true, attention_out_bias = true;
  double norm_eps = 1e-6;
  VideoScale video_scale;
  AudioScale audio_scale;
  double base_height = 2048, base_width = 2048;
  double rope_theta = 10000.0;
  bool rope_double_precision = true, rope_split = false;
  double gate_scale = 1.0;  // cross_attn_timestep_scale_multiplier / timestep_scale_multiplier

  /// Text is modulated by t as well (2.3).
  bool prompt_modulation() const { return streams.video.text_modulated || streams.audio.text_modulated; }
};

/// Throws BadInput naming file and key.
TransformerConfig read_transformer_config(const std::filesystem::path& file);

/// Where the tokens of a clip stand, the same at every step.
struct ClipPositions {
  Both<Angles> self, cross;  // cross: seconds alone, in the audio's width
};

/// What a block reads of one stream beside its tokens.
struct StreamConditions {
  at::Tensor text;               // [B, L, D_text]
  at::Tensor text_mask = {};     // additive [B, 1, 1, L], or undefined
  at::Tensor modulation;         // [B, 1 or S, 6 or 9 x D]
  at::Tensor cross_modulation;   // [B, 1 or S, 4 D]: scale, shift for a2v; scale, shift for v2a
  at::Tensor cross_gate;         // [B, 1 or S, D]
  at::Tensor prompt_modulation;  // [B, 1, 2 D], or undefined
  const Rotation* rotation = nullptr;
  const Rotation* cross_rotation = nullptr;
};

struct BlockOptions {
  bool isolated = false;   // no attention between the streams
  at::Tensor keeps = {};   // [B, 1, 1]: 0 where self-attention returns its values; undefined: nowhere
  bool perturbed = false;  // everywhere
};

/// Self-attention, text attention, attention between the streams (both from the same two normed states), feed-forward.
class Block {
 public:
  Block(const TransformerConfig& config, int64_t index, nn::Weights& weights);
  ~Block();
  Block(Block&&) noexcept;

  /// video: [B, S, D_v], audio: [B, T, D_a] -> the same.
  Both<at::Tensor> operator()(Both<at::Tensor> x, const Both<StreamConditions>& conditions,
                              const BlockOptions& options) const;

 private:
  struct Stream;
  std::unique_ptr<Both<Stream>> streams_;
};

/// What one evaluation reads. Timesteps are 1000 sigma, float32.
struct TransformerInputs {
  Both<at::Tensor> latents = {};   // [B, S, C_v], [B, T, C_a]
  Both<at::Tensor> text = {};      // [B, L, D]: caption_channels wide with use_prompt_embeddings, else context_dim
  at::Tensor text_mask = {};       // [B, L]: 1 where there is text; undefined: everywhere
  Both<at::Tensor> timestep = {};  // [B], or one a token [B, S]
  Both<at::Tensor> sigma = {};     // [B]; undefined: as timestep, which then is [B]
  bool cross_timestep = true;      // the part between the streams is modulated by the other's sigma (else by its own t)
  bool isolated = false;
  std::vector<int64_t> perturbed_blocks = {};  // needs perturbed_attn
  std::vector<bool> perturbed_rows = {};       // which rows of the batch; empty: all
  at::Tensor keyframes = {};                   // [B, S]: 1 on video tokens of a single frame; undefined: nowhere
};

/// LTX-2's dual-branch transformer (arXiv 2601.03233) in diffusers' layout (0.42.1).
class Transformer {
 public:
  Transformer(const TransformerConfig& config, nn::Weights& weights);

  const TransformerConfig& config() const { return config_; }

  ClipPositions positions(const ClipGrid& grid) const;

  /// The velocities dx/dsigma [B, S, C_v], [B, T, C_a]. Throws std::invalid_argument for shapes that do not fit.
  Both<at::Tensor> operator()(const TransformerInputs& inputs, const ClipPositions& positions) const;

  const Block& block(int64_t index) const { return blocks_.at(index); }

 private:
  /// t to modulations (PixArt-alpha's adaLN-single, arXiv 2310.00426).
  struct AdaLn {
    nn::Linear linear_1, linear_2, linear;
    AdaLn(nn::Weights& weights, const std::string& name, int64_t width, int64_t count);
    struct Out {
      at::Tensor modulation, embedded;  // [B, n, count D], [B, n, D]
    };
    Out operator()(const at::Tensor& timestep) const;
  };
  struct Ends {
    nn::Linear proj_in, proj_out;
    AdaLn time, cross_scale_shift, cross_gate;
    std::optional<AdaLn> prompt = {};
    std::optional<nn::Linear> caption_1 = {}, caption_2 = {};
    at::Tensor table = {};  // [2, D]: shift, scale
  };
  static Ends take_ends(const TransformerConfig& config, bool video, nn::Weights& weights);
  void check(const TransformerInputs& inputs, const ClipPositions& positions) const;
  StreamConditions conditions(const TransformerInputs& inputs, bool video, at::Tensor& embedded) const;
  static at::Tensor finish(const Ends& ends, const at::Tensor& x, const at::Tensor& embedded);

  TransformerConfig config_;
  Both<Ends> ends_;
  at::Tensor keyframe_embedding_;  // [1, D_v], or undefined
  std::vector<Block> blocks_;
};

}  // namespace unigrpo::policy::ltx2
