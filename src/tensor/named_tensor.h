#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace unigrpo {

/// A tensor under its official name. As a parameter list: the very tensors that the model computes with.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};
using NamedTensors = std::vector<NamedTensor>;

}  // namespace unigrpo
