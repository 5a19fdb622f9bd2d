#pragma once

#include <ATen/core/Tensor.h>

#include <string_view>

namespace unigrpo::tensor {

/// A fault point (base/fault.h) with a tensor at hand: the NaN or infinity that a test asks for goes into its first
/// element, in place.
void spoil(std::string_view point, const at::Tensor& tensor);

}  // namespace unigrpo::tensor
