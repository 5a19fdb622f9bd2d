#include "policy/ltx2/transformer.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "policy/ltx2/layers.h"
#include "tensor/shape.h"

namespace unigrpo::policy::ltx2 {
namespace {

constexpr int64_t kTimeFeatures = 256;
constexpr double kMasked = -10000.0;
constexpr double kOutNormEps = 1e-6;

/// n (1 + scale) + shift.
at::Tensor modulate(const at::Tensor& normed, const at::Tensor& scale, const at::Tensor& shift) {
  return at::addcmul(shift, normed, scale + 1);
}

/// table [n, D] + given [B, t, n D] -> n of [B, t, D].
std::vector<at::Tensor> modulations(const at::Tensor& table, const at::Tensor& given) {
  return (given.unflatten(2, {table.size(0), -1}) + table).unbind(2);
}

/// Sinusoids of t, cosines first. In the published order of operations: t reaches 1000, where a frequency that differs
/// in its last bit moves the angle by 1e-4.
at::Tensor time_features(const at::Tensor& timestep) {
  constexpr int64_t half = kTimeFeatures / 2;
  const at::Tensor exponent = at::arange(half, timestep.options().dtype(at::kFloat)) * -std::log(10000.0) / half;
  const at::Tensor angle = timestep.to(at::kFloat).flatten().unsqueeze(1) * exponent.exp();
  return at::cat({angle.cos(), angle.sin()}, 1);  // [n, 256]
}

}  // namespace

/// One stream's half of a block.
struct Block::Stream {
  Stream(const TransformerConfig& c, bool video, const std::string& name, nn::Weights& w)
      : config(video ? c.streams.video : c.streams.audio),
        attn1(w, name + (video ? "attn1" : "audio_attn1"), shape(c, config, config.width())),
        attn2(w, name + (video ? "attn2" : "audio_attn2"), shape(c, config, config.context_dim)),
        cross(w, name + (video ? "audio_to_video_attn" : "video_to_audio_attn"), cross_shape(c, video)),
        ff(w, name + (video ? "ff" : "audio_ff"), config.width(), config.ff_bias) {
    const std::string prefix = name + (video ? "" : "audio_");
    const int64_t d = config.width();
    table = w.take(prefix + "scale_shift_table", {config.text_modulated ? 9 : 6, d});
    if (c.prompt_modulation()) prompt_table = w.take(prefix + "prompt_scale_shift_table", {2, d});
    cross_table = w.take(name + (video ? "video" : "audio") + "_a2v_cross_attn_scale_shift_table", {5, d});
    norm.emplace(table.options(), d, c.norm_eps);
  }

  static AttentionShape shape(const TransformerConfig& c, const StreamConfig& s, int64_t context_dim) {
    return {.query_dim = s.width(),
            .context_dim = context_dim,
            .heads = s.heads,
            .head_dim = s.head_dim,
            .gated = s.gated,
            .bias = c.attention_bias,
            .out_bias = c.attention_out_bias};
  }
  /// Between the streams attention has the audio's heads in both directions.
  static AttentionShape cross_shape(const TransformerConfig& c, bool video) {
    const Both<StreamConfig>& s = c.streams;
    AttentionShape result = shape(c, s.audio, (video ? s.audio : s.video).width());
    result.query_dim = (video ? s.video : s.audio).width();
    result.gated = (video ? s.video : s.audio).gated;
    return result;
  }

  /// Self-attention, then attention to the text.
  at::Tensor within(at::Tensor x, const StreamConditions& c, const std::vector<at::Tensor>& m,
                    const BlockOptions& options) const {
    const at::Tensor h = modulate((*norm)(x), m[1], m[0]);
    x = at::addcmul(x,
                    attn1(h, h,
                          {.query_rotation = c.rotation,
                           .key_rotation = c.rotation,
                           .keeps = options.keeps,
                           .perturbed = options.perturbed}),
                    m[2]);
    at::Tensor query = (*norm)(x), text = c.text;
    if (config.text_modulated) query = modulate(query, m[7], m[6]);
    if (prompt_table.defined()) {
      const auto p = c.prompt_modulation.defined() ? modulations(prompt_table, c.prompt_modulation)
                                                   : prompt_table.view({1, 1, 2, -1}).unbind(2);
      text = modulate(text, p[1], p[0]);
    }
    const at::Tensor read = attn2(query, text, {.mask = c.text_mask});
    return config.text_modulated ? at::addcmul(x, read, m[8]) : x + read;
  }

  at::Tensor feed_forward(const at::Tensor& x, const std::vector<at::Tensor>& m) const {
    return at::addcmul(x, ff(modulate((*norm)(x), m[4], m[3])), m[5]);
  }

  StreamConfig config;
  Attention attn1, attn2, cross;
  FeedForward ff;
  at::Tensor table;         // [6 or 9, D]: shift, scale, gate of self-attention, of feed-forward, (of text queries)
  at::Tensor prompt_table;  // [2, D]: shift, scale of the text
  at::Tensor cross_table;   // [5, D]: scale, shift for a2v, scale, shift for v2a, gate
  std::optional<PlainNorm> norm;
};

Block::Block(const TransformerConfig& config, int64_t index, nn::Weights& weights) {
  const std::string name = fmt::format("transformer_blocks.{}.", index);
  streams_ = std::make_unique<Both<Stream>>(
      Both<Stream>{.video = Stream(config, true, name, weights), .audio = Stream(config, false, name, weights)});
}
Block::~Block() = default;
Block::Block(Block&&) noexcept = default;

Both<at::Tensor> Block::operator()(Both<at::Tensor> x, const Both<StreamConditions>& conditions,
                                   const BlockOptions& options) const {
  const Stream &video = streams_->video, &audio = streams_->audio;
  const StreamConditions &cv = conditions.video, &ca = conditions.audio;
  const auto mv = modulations(video.table, cv.modulation), ma = modulations(audio.table, ca.modulation);
  x.video = video.within(x.video, cv, mv, options);
  x.audio = audio.within(x.audio, ca, ma, options);
  if (!options.isolated) {
    // Both directions read the same two states.
    const at::Tensor nv = (*video.norm)(x.video), na = (*audio.norm)(x.audio);
    const auto sv = modulations(video.cross_table.narrow(0, 0, 4), cv.cross_modulation);
    const auto sa = modulations(audio.cross_table.narrow(0, 0, 4), ca.cross_modulation);
    const at::Tensor gate_v = cv.cross_gate + video.cross_table[4], gate_a = ca.cross_gate + audio.cross_table[4];
    const at::Tensor to_video = video.cross(modulate(nv, sv[0], sv[1]), modulate(na, sa[0], sa[1]),
                                            {.query_rotation = cv.cross_rotation, .key_rotation = ca.cross_rotation});
    const at::Tensor to_audio = audio.cross(modulate(na, sa[2], sa[3]), modulate(nv, sv[2], sv[3]),
                                            {.query_rotation = ca.cross_rotation, .key_rotation = cv.cross_rotation});
    x.video = at::addcmul(x.video, gate_v, to_video);
    x.audio = at::addcmul(x.audio, gate_a, to_audio);
  }
  return {.video = video.feed_forward(x.video, mv), .audio = audio.feed_forward(x.audio, ma)};
}

Transformer::AdaLn::AdaLn(nn::Weights& weights, const std::string& name, int64_t width, int64_t count)
    : linear_1(nn::take_linear(weights, name + ".emb.timestep_embedder.linear_1", width, kTimeFeatures, true)),
      linear_2(nn::take_linear(weights, name + ".emb.timestep_embedder.linear_2", width, width, true)),
      linear(nn::take_linear(weights, name + ".linear", count * width, width, true)) {}

Transformer::AdaLn::Out Transformer::AdaLn::operator()(const at::Tensor& timestep) const {
  const int64_t batch = timestep.size(0);
  const at::Tensor features = time_features(timestep).to(linear_1.weight.scalar_type());
  const at::Tensor embedded = linear_2(at::silu(linear_1(features)));  // [n, D]
  const at::Tensor modulation = linear(at::silu(embedded));
  return {.modulation = modulation.view({batch, -1, modulation.size(1)}),
          .embedded = embedded.view({batch, -1, embedded.size(1)})};
}

Transformer::Ends Transformer::take_ends(const TransformerConfig& config, bool video, nn::Weights& weights) {
  const StreamConfig& s = video ? config.streams.video : config.streams.audio;
  const std::string prefix = video ? "" : "audio_";
  const int64_t d = s.width();
  const std::string cross = video ? "av_cross_attn_video_" : "av_cross_attn_audio_";
  Ends ends{.proj_in = nn::take_linear(weights, prefix + "proj_in", d, s.in_channels, true),
            .proj_out = nn::take_linear(weights, prefix + "proj_out", s.out_channels, d, true),
            .time = AdaLn(weights, prefix + "time_embed", d, s.text_modulated ? 9 : 6),
            .cross_scale_shift = AdaLn(weights, cross + "scale_shift", d, 4),
            .cross_gate = AdaLn(weights, cross + (video ? "a2v_gate" : "v2a_gate"), d, 1),
            .table = weights.take(prefix + "scale_shift_table", {2, d})};
  if (config.prompt_modulation() && config.use_prompt_adaln_single) {
    ends.prompt.emplace(weights, prefix + "prompt_adaln", d, 2);
  }
  if (config.use_prompt_embeddings) {
    const std::string name = prefix + "caption_projection.linear_";
    ends.caption_1 = nn::take_linear(weights, name + "1", d, config.caption_channels, true);
    ends.caption_2 = nn::take_linear(weights, name + "2", d, d, true);
  }
  return ends;
}

Transformer::Transformer(const TransformerConfig& config, nn::Weights& weights)
    : config_(config), ends_{.video = take_ends(config, true, weights), .audio = take_ends(config, false, weights)} {
  if (config.keyframes) {
    keyframe_embedding_ = weights.take("keyframes_abs_pos_embedding", {1, config.streams.video.width()});
  }
  for (int64_t i = 0; i < config.num_layers; ++i) blocks_.emplace_back(config, i, weights);
}

ClipPositions Transformer::positions(const ClipGrid& grid) const {
  const TransformerConfig& c = config_;
  const at::Tensor video = video_coords(grid, c.video_scale), audio = audio_coords(grid.audio_frames, c.audio_scale);
  const auto angles = [&](const at::Tensor& coords, const std::vector<double>& limits, int64_t dim, int64_t heads) {
    return angles_of(coords, limits,
                     {.dim = dim,
                      .heads = heads,
                      .split = c.rope_split,
                      .theta = c.rope_theta,
                      .double_precision = c.rope_double_precision});
  };
  const StreamConfig &v = c.streams.video, &a = c.streams.audio;
  const double longest = std::max(v.max_seconds, a.max_seconds);
  return {.self = {.video = angles(video, {v.max_seconds, c.base_height, c.base_width}, v.width(), v.heads),
                   .audio = angles(audio, {a.max_seconds}, a.width(), a.heads)},
          .cross = {.video = angles(video.narrow(1, 0, 1), {longest}, a.width(), v.heads),
                    .audio = angles(audio, {longest}, a.width(), a.heads)}};
}

void Transformer::check(const TransformerInputs& in, const ClipPositions& positions) const {
  const int64_t batch = in.latents.video.size(0);
  const auto check_stream = [&](const StreamConfig& s, const at::Tensor& latents, const at::Tensor& text,
                                const at::Tensor& timestep, const at::Tensor& sigma, const Angles& angles) {
    const int64_t tokens = angles.cos.size(0);
    tensor::check_shape(latents, {batch, tokens, s.in_channels}, "latents [B, S, C]");
    tensor::check_shape(text, {batch, -1, config_.use_prompt_embeddings ? config_.caption_channels : s.context_dim},
                        "text [B, L, D]");
    if (timestep.dim() != 1) tensor::check_shape(timestep, {batch, tokens}, "timestep [B, S]");
    tensor::check_shape(sigma.defined() ? sigma : timestep, {batch}, "sigma [B]");
  };
  check_stream(config_.streams.video, in.latents.video, in.text.video, in.timestep.video, in.sigma.video,
               positions.self.video);
  check_stream(config_.streams.audio, in.latents.audio, in.text.audio, in.timestep.audio, in.sigma.audio,
               positions.self.audio);
  if (in.text_mask.defined()) tensor::check_shape(in.text_mask, {batch, in.text.video.size(1)}, "text_mask [B, L]");
  if (!in.perturbed_blocks.empty() && !config_.perturbed) {
    throw std::invalid_argument("perturbed blocks need a model with perturbed_attn");
  }
  if (!in.perturbed_rows.empty() && static_cast<int64_t>(in.perturbed_rows.size()) != batch) {
    throw std::invalid_argument("perturbed_rows must have one entry a row of the batch");
  }
}

StreamConditions Transformer::conditions(const TransformerInputs& in, bool video, at::Tensor& embedded) const {
  const auto own = [&](const Both<at::Tensor>& both) { return video ? both.video : both.audio; };
  const auto sigma = [&](bool of_video) {
    const at::Tensor& given = of_video ? in.sigma.video : in.sigma.audio;
    return given.defined() ? given : of_video ? in.timestep.video : in.timestep.audio;
  };
  const Ends& ends = video ? ends_.video : ends_.audio;
  StreamConditions c;
  const AdaLn::Out time = ends.time(own(in.timestep));
  c.modulation = time.modulation;
  embedded = time.embedded;
  const at::Tensor cross_time = in.cross_timestep ? sigma(!video) : own(in.timestep);
  c.cross_modulation = ends.cross_scale_shift(cross_time).modulation;
  c.cross_gate = ends.cross_gate(cross_time * config_.gate_scale).modulation;
  if (ends.prompt) c.prompt_modulation = (*ends.prompt)(sigma(video)).modulation;
  c.text = own(in.text);
  if (ends.caption_1) c.text = (*ends.caption_2)(at::gelu((*ends.caption_1)(c.text), "tanh"));
  if (in.text_mask.defined()) {
    c.text_mask = ((1 - in.text_mask.to(c.text.scalar_type())) * kMasked).unsqueeze(1).unsqueeze(1);
  }
  return c;
}

at::Tensor Transformer::finish(const Ends& ends, const at::Tensor& x, const at::Tensor& embedded) {
  const auto m = (embedded.unsqueeze(2) + ends.table).unbind(2);
  return ends.proj_out(modulate(at::layer_norm(x, {x.size(2)}, {}, {}, kOutNormEps), m[1], m[0]));
}

Both<at::Tensor> Transformer::operator()(const TransformerInputs& in, const ClipPositions& positions) const {
  check(in, positions);
  const int64_t batch = in.latents.video.size(0);
  const at::Device device = in.latents.video.device();
  const Rotation video_self(positions.self.video, batch, device), audio_self(positions.self.audio, batch, device),
      video_cross(positions.cross.video, batch, device), audio_cross(positions.cross.audio, batch, device);
  Both<at::Tensor> embedded;
  Both<StreamConditions> c{.video = conditions(in, true, embedded.video),
                           .audio = conditions(in, false, embedded.audio)};
  c.video.rotation = &video_self;
  c.audio.rotation = &audio_self;
  c.video.cross_rotation = &video_cross;
  c.audio.cross_rotation = &audio_cross;

  const at::ScalarType dtype = ends_.video.proj_in.weight.scalar_type();
  Both<at::Tensor> x{.video = ends_.video.proj_in(in.latents.video.to(dtype)),
                     .audio = ends_.audio.proj_in(in.latents.audio.to(dtype))};
  if (keyframe_embedding_.defined() && in.keyframes.defined()) {
    x.video = x.video + (in.keyframes > 0).to(dtype).unsqueeze(-1) * keyframe_embedding_;
  }
  at::Tensor keeps;
  const bool some = std::ranges::find(in.perturbed_rows, false) != in.perturbed_rows.end();
  if (some) {
    std::vector<float> rows;
    for (const bool perturbed : in.perturbed_rows) rows.push_back(perturbed ? 0.0F : 1.0F);
    keeps = at::tensor(rows).view({batch, 1, 1}).to(x.video.options());
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    BlockOptions options{.isolated = in.isolated};
    if (std::ranges::find(in.perturbed_blocks, static_cast<int64_t>(i)) != in.perturbed_blocks.end()) {
      options.keeps = keeps;
      options.perturbed = !some;
    }
    x = blocks_[i](std::move(x), c, options);
  }
  return {.video = finish(ends_.video, x.video, embedded.video), .audio = finish(ends_.audio, x.audio, embedded.audio)};
}

}  // namespace unigrpo::policy::ltx2
