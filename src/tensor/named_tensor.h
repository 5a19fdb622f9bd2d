#pragma once

#include <string>
#include <vector>

#include <ATen/core/Tensor.h>

namespace unigrpo {

/// A tensor under its official name. As a parameter list: the very tensors that the model computes with.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};
using NamedTensors = std::vector<NamedTensor>;

}  // namespace unigrpo
