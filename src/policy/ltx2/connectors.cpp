#include "policy/ltx2/connectors.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <numeric>
#include <stdexcept>

#include "io/class_config.h"
#include "tensor/shape.h"

namespace unigrpo::policy::ltx2 {
namespace {

constexpr double kEps = 1e-6;

ConnectorConfig read_connector(io::ClassConfig& file, const std::string& stream) {
  ConnectorConfig c;
  const auto key = [&](const char* rest) { return stream + rest; };
  c.heads = file.integer(key("_connector_num_attention_heads").c_str(), c.heads, kMostHeads);
  c.head_dim = file.integer(key("_connector_attention_head_dim").c_str(), c.head_dim, kMostChannels);
  c.num_layers = file.integer(key("_connector_num_layers").c_str(), c.num_layers, kMostLayers);
  c.num_registers = file.integer_or_none(key("_connector_num_learnable_registers").c_str(), c.num_registers);
  c.gated = file.boolean(key("_gated_attn").c_str(), c.gated);
  if (c.head_dim % 2 != 0) {
    file.refuse(key("_connector_attention_head_dim").c_str(),
                fmt::format("must be even (rotary positions), is {}", c.head_dim));
  }
  return c;
}

/// A stream's text, each of K layers normalised over tokens and channels by mean and range (2.0): [B, L, D K].
at::Tensor normalized_by_range(const TextStates& states) {
  constexpr double kScale = 8;
  const at::Tensor& x = states.hidden;
  const at::Tensor padding = states.mask.eq(0).unsqueeze(-1).unsqueeze(-1);  // [B, L, 1, 1]
  const at::Tensor count = (states.mask.sum(1) * x.size(2)).view({-1, 1, 1, 1});
  const at::Tensor mean = x.masked_fill(padding, 0).sum({1, 2}, true) / (count + kEps);
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const at::Tensor lowest = x.masked_fill(padding, infinity).amin({1, 2}, true);
  const at::Tensor highest = x.masked_fill(padding, -infinity).amax({1, 2}, true);
  return ((x - mean) / (highest - lowest + kEps) * kScale).masked_fill(padding, 0).flatten(2).to(x.scalar_type());
}

/// Each token and layer over its root mean square (2.3): [B, L, D K].
at::Tensor normalized_by_token(const TextStates& states) {
  const at::Tensor& x = states.hidden;
  const at::Tensor normed = (x * (x.square().mean(2, true) + kEps).rsqrt()).flatten(2);
  return normed.masked_fill(states.mask.eq(0).unsqueeze(-1), 0);
}

}  // namespace

ConnectorsConfig read_connectors_config(const std::filesystem::path& path) {
  auto file = io::ClassConfig::open(path, {"LTX2TextConnectors"});
  ConnectorsConfig c;
  c.caption_channels = file.integer("caption_channels", 3840, kMostChannels);
  c.num_text_layers = file.integer("text_proj_in_factor", 49, kMostLayers);
  c.streams = {.video = read_connector(file, "video"), .audio = read_connector(file, "audio")};
  c.rope_base_seq_len = file.integer("connector_rope_base_seq_len", 4096);
  c.rope_theta = file.positive("rope_theta", 10000.0);
  c.rope_double_precision = file.boolean("rope_double_precision", true);
  c.rope_split = file.choice("rope_type", "interleaved", {"interleaved", "split"}) == "split";
  c.per_modality_projections = file.boolean("per_modality_projections", false);
  c.hidden_dim = {.video = file.integer("video_hidden_dim", 4096, kMostChannels),
                  .audio = file.integer("audio_hidden_dim", 2048, kMostChannels)};
  c.proj_bias = file.boolean("proj_bias", false);
  file.ignore({"causal_temporal_positioning"});  // nothing reads it
  file.finish();
  // What is projected is what the connectors read.
  for (const bool video : {true, false}) {
    const ConnectorConfig& own = video ? c.streams.video : c.streams.audio;
    const std::string stream = video ? "video" : "audio";
    const int64_t given = !c.per_modality_projections ? c.caption_channels
                          : video                     ? c.hidden_dim.video
                                                      : c.hidden_dim.audio;
    if (given != own.width()) {
      file.refuse(c.per_modality_projections ? (stream + "_hidden_dim").c_str() : "caption_channels",
                  fmt::format("must be {}_connector_num_attention_heads * {}_connector_attention_head_dim = {}, is {}",
                              stream, stream, own.width(), given));
    }
  }
  return c;
}

Connectors::Connector::Connector(const ConnectorConfig& own, const std::string& name, nn::Weights& weights)
    : config(own) {
  const int64_t d = own.width();
  if (own.num_registers) registers = weights.take(name + ".learnable_registers", {*own.num_registers, d});
  for (int64_t i = 0; i < own.num_layers; ++i) {
    const std::string layer = fmt::format("{}.transformer_blocks.{}", name, i);
    layers.push_back(
        {.attn1 = Attention(
             weights, layer + ".attn1",
             {.query_dim = d, .context_dim = d, .heads = own.heads, .head_dim = own.head_dim, .gated = own.gated}),
         .ff = FeedForward(weights, layer + ".ff", d, true)});
  }
}

at::Tensor Connectors::Connector::operator()(const ConnectorsConfig& all, at::Tensor x, const at::Tensor& mask) const {
  const int64_t batch = x.size(0), length = x.size(1);
  at::Tensor additive;
  if (registers.defined()) {
    // The text moves to the front, registers stand behind it by their place.
    const at::Tensor order = at::argsort(1 - mask, /*stable=*/true, /*dim=*/1, /*descending=*/false);
    const at::Tensor front = x.gather(1, order.unsqueeze(-1).expand({-1, -1, x.size(2)}));
    const at::Tensor is_text = at::arange(length, mask.options()).unsqueeze(0).lt(mask.sum(1, true)).unsqueeze(-1);
    const at::Tensor repeated = registers.repeat({length / registers.size(0), 1}).unsqueeze(0);
    x = at::where(is_text, front, repeated.to(x.scalar_type()));
  } else {
    const double lowest = x.scalar_type() == at::kBFloat16 ? -3.3895e38 : -3.4028234663852886e38;
    additive = at::zeros_like(mask, x.options()).masked_fill(mask.eq(0), lowest).unsqueeze(1).unsqueeze(1);
  }
  const Rotation rotation(angles_of_sequence(length, all.rope_base_seq_len,
                                             {.dim = config.width(),
                                              .heads = config.heads,
                                              .split = all.rope_split,
                                              .theta = all.rope_theta,
                                              .double_precision = all.rope_double_precision}),
                          batch, x.device());
  const PlainNorm norm_of(x.options(), config.width(), kEps);
  for (const Layer& layer : layers) {
    const at::Tensor h = norm_of(x);
    x = x + layer.attn1(h, h, {.query_rotation = &rotation, .key_rotation = &rotation, .mask = additive});
    x = x + layer.ff(norm_of(x));
  }
  return norm_of(x);
}

Connectors::Connectors(const ConnectorsConfig& config, nn::Weights& weights)
    : config_(config),
      connectors_{.video = Connector(config.streams.video, "video_connector", weights),
                  .audio = Connector(config.streams.audio, "audio_connector", weights)} {
  const int64_t in = config.caption_channels * config.num_text_layers;
  if (config.per_modality_projections) {
    projections_ = Both<nn::Linear>{
        .video = nn::take_linear(weights, "video_text_proj_in", config.hidden_dim.video, in, config.proj_bias),
        .audio = nn::take_linear(weights, "audio_text_proj_in", config.hidden_dim.audio, in, config.proj_bias)};
  } else {
    project_ = nn::take_linear(weights, "text_proj_in", config.caption_channels, in, config.proj_bias);
  }
}

int64_t Connectors::length_multiple() const {
  return std::lcm(config_.streams.video.num_registers.value_or(1), config_.streams.audio.num_registers.value_or(1));
}

Both<at::Tensor> Connectors::project(const TextStates& states) const {
  if (project_) {
    const at::Tensor one = (*project_)(normalized_by_range(states));
    return {.video = one, .audio = one};
  }
  const at::Tensor normed = normalized_by_token(states);
  const auto scaled = [&](int64_t width) {
    return normed * std::sqrt(static_cast<double>(width) / static_cast<double>(config_.caption_channels));
  };
  return {.video = projections_->video(scaled(config_.hidden_dim.video)),
          .audio = projections_->audio(scaled(config_.hidden_dim.audio))};
}

TextContext Connectors::operator()(const TextStates& states) const {
  tensor::check_shape(states.hidden, {-1, -1, config_.caption_channels, config_.num_text_layers},
                      "text hidden states [B, L, D, K]");
  const int64_t batch = states.hidden.size(0), length = states.hidden.size(1);
  tensor::check_shape(states.mask, {batch, length}, "text mask [B, L]");
  if (length % length_multiple() != 0) {
    throw std::invalid_argument(
        fmt::format("text of {} tokens: the connectors' registers need a multiple of {}", length, length_multiple()));
  }
  const at::Tensor mask = states.mask.to(at::kLong);
  const Both<at::Tensor> projected = project({.hidden = states.hidden, .mask = mask});
  // As published the context's mask is all 1: without registers, too, the streams attend to what padding became.
  return {.text = {.video = connectors_.video(config_, projected.video, mask),
                   .audio = connectors_.audio(config_, projected.audio, mask)},
          .mask = at::ones_like(mask)};
}

}  // namespace unigrpo::policy::ltx2
