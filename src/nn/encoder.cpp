#include "nn/encoder.h"

#include <ATen/ATen.h>

#include <optional>

namespace unigrpo::nn {
namespace {

at::Tensor activate(Activation activation, const at::Tensor& x) {
  if (activation == Activation::quick_gelu) return x * at::sigmoid(x * 1.702);
  return at::gelu(x, activation == Activation::gelu_tanh ? "tanh" : "none");
}

}  // namespace

Encoder::Encoder(const EncoderConfig& config, const std::string& name, Weights& weights)
    : num_heads_(config.num_heads), activation_(config.activation) {
  const int64_t d = config.hidden_size, inner = config.intermediate_size;
  for (int64_t i = 0; i < config.num_layers; ++i) {
    const std::string base = name + ".layers." + std::to_string(i) + ".";
    const auto take = [&](const char* part, int64_t out, int64_t in) {
      return take_linear(weights, base + part, out, in, /*bias=*/true);
    };
    layers_.push_back({.norm1 = take_layer_norm(weights, base + "layer_norm1", d, config.layer_norm_eps),
                       .norm2 = take_layer_norm(weights, base + "layer_norm2", d, config.layer_norm_eps),
                       .q = take("self_attn.q_proj", d, d),
                       .k = take("self_attn.k_proj", d, d),
                       .v = take("self_attn.v_proj", d, d),
                       .out = take("self_attn.out_proj", d, d),
                       .fc1 = take("mlp.fc1", inner, d),
                       .fc2 = take("mlp.fc2", d, inner)});
  }
}

at::Tensor Encoder::operator()(at::Tensor x, bool causal) const {
  const int64_t b = x.size(0), t = x.size(1);
  for (const Layer& layer : layers_) {
    const at::Tensor h = layer.norm1(x);
    const auto heads = [&](const Linear& projection) {
      return projection(h).view({b, t, num_heads_, -1}).transpose(1, 2);  // [B, H, T, Dh]
    };
    const at::Tensor mixed = at::scaled_dot_product_attention(heads(layer.q), heads(layer.k), heads(layer.v),
                                                              std::nullopt, /*dropout_p=*/0.0, causal);
    x = x + layer.out(mixed.transpose(1, 2).reshape({b, t, -1}));
    x = x + layer.fc2(activate(activation_, layer.fc1(layer.norm2(x))));
  }
  return x;
}

}  // namespace unigrpo::nn
