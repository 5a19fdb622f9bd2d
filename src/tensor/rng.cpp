#include "tensor/rng.h"

#include <ATen/ATen.h>

namespace unigrpo::tensor {

at::Tensor normal(at::IntArrayRef shape, const StreamKey& key) {
  at::Tensor out = at::empty(shape, at::kFloat);
  RandomStream stream(key);
  float* data = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i) data[i] = static_cast<float>(stream.normal());
  return out;
}

at::Tensor uniform(at::IntArrayRef shape, const StreamKey& key) {
  at::Tensor out = at::empty(shape, at::kFloat);
  RandomStream stream(key);
  float* data = out.mutable_data_ptr<float>();
  for (int64_t i = 0; i < out.numel(); ++i) {
    data[i] = static_cast<float>(stream.next_u32() >> 8) * 0x1.0p-24F;
  }
  return out;
}

}  // namespace unigrpo::tensor
