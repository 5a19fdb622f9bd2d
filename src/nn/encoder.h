#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "nn/layer_norm.h"
#include "nn/linear.h"
#include "nn/weights.h"

namespace unigrpo::nn {

enum class Activation {
  gelu,       // exact
  gelu_tanh,  // its approximation by tanh
  quick_gelu  // x * sigmoid(1.702 x)
};

struct EncoderConfig {
  int64_t hidden_size = 0;        // D
  int64_t intermediate_size = 0;  // of the MLP
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  double layer_norm_eps = 1e-5;
  Activation activation = Activation::gelu;
};

/// The pre-norm transformer that SigLIP's tower (arXiv 2303.15343) and both of CLIP's (arXiv 2103.00020) are made of,
/// in transformers' tensor names.
class Encoder {
 public:
  /// `name`: "<name>.layers.N.*" are the tensors' names.
  Encoder(const EncoderConfig& config, const std::string& name, Weights& weights);

  /// x: [B, T, D] -> [B, T, D]. causal: a token sees those before it and itself, else all.
  at::Tensor operator()(at::Tensor x, bool causal = false) const;

 private:
  struct Layer {
    LayerNorm norm1, norm2;
    Linear q, k, v, out, fc1, fc2;
  };
  int64_t num_heads_;
  Activation activation_;
  std::vector<Layer> layers_;
};

}  // namespace unigrpo::nn
