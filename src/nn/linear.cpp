#include "nn/linear.h"

#include <ATen/ATen.h>

namespace unigrpo::nn {

at::Tensor Linear::operator()(const at::Tensor& x) const {
  at::Tensor y = at::linear(x, weight, bias);
  if (lora && *lora_enabled) {
    y = y + at::linear(at::linear(x, lora->a), lora->b) * lora->scale;
  }
  return y;
}

Linear take_linear(Weights& weights, const std::string& name, int64_t out, int64_t in, bool bias) {
  Linear linear;
  linear.name = name;
  linear.weight = weights.take(name + ".weight", {out, in});
  if (bias) linear.bias = weights.take(name + ".bias", {out});
  return linear;
}

}  // namespace unigrpo::nn
