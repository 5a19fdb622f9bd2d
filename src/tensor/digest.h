#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace unigrpo::tensor {

/// Lower-case hexadecimal SHA-256 over a tensor's dtype, shape and bytes (row-major, from any device):
/// equal exactly when the tensors are bit for bit the same.
std::string digest(const at::Tensor& tensor);
/// Of a list, in order.
std::string digest(at::TensorList tensors);

}  // namespace unigrpo::tensor
