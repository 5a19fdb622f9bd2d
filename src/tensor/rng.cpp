#include "tensor/rng.h"

#include <ATen/ATen.h>

#include "kernels/keyed_random.h"

namespace unigrpo::tensor {
namespace {

kernels::RandomKey random_key(const StreamKey& key) {
  const RandomStream stream(key);
  return {.key = stream.key(), .stream = stream.stream()};
}

}  // namespace

at::Tensor normal(at::IntArrayRef shape, const StreamKey& key, at::Device device) {
  at::Tensor out = at::empty(shape, at::TensorOptions(at::kFloat).device(device));
  kernels::keyed_normal_(out, random_key(key));
  return out;
}

at::Tensor uniform(at::IntArrayRef shape, const StreamKey& key, at::Device device) {
  at::Tensor out = at::empty(shape, at::TensorOptions(at::kFloat).device(device));
  kernels::keyed_uniform_(out, random_key(key));
  return out;
}

at::Tensor uniform_rows(const at::Tensor& rows, int64_t width, const StreamKey& key) {
  at::Tensor out = at::empty({rows.size(0), width}, at::TensorOptions(at::kFloat).device(rows.device()));
  kernels::keyed_uniform_rows_(out, rows, random_key(key));
  return out;
}

}  // namespace unigrpo::tensor
