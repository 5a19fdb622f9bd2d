#include "nn/linear.h"

#include <ATen/ATen.h>

#include <optional>

#include "base/hash.h"
#include "kernels/linear.h"
#include "tensor/rng.h"

namespace unigrpo::nn {

at::Tensor Linear::operator()(const at::Tensor& x, const std::optional<LoraDropout>& dropout) const {
  const at::Tensor y = kernels::linear(x, weight, bias);
  if (!adapts()) return y;
  at::Tensor read = x;
  if (dropout) {
    StreamKey key = dropout->key;
    key.prompt = fnv1a64(name);
    const int64_t width = x.size(-1);
    at::Tensor u = tensor::uniform_rows(dropout->rows, dropout->parts * width, key);
    if (dropout->parts > 1) u = u.narrow(1, dropout->part * width, width);
    const at::Tensor kept = u.ge(dropout->rate).to(x.options());
    read = x * kept / (1.0 - dropout->rate);
  }
  return y + kernels::linear(kernels::linear(read, lora->a, at::Tensor()), lora->b, at::Tensor()) * lora->scale;
}

Linear take_linear(Weights& weights, const std::string& name, int64_t out, int64_t in, bool bias) {
  Linear result;
  result.name = name;
  result.weight = weights.take(name + ".weight", {out, in});
  if (bias) result.bias = weights.take(name + ".bias", {out});
  return result;
}

}  // namespace unigrpo::nn
