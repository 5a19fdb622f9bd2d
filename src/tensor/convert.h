#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "io/safetensors.h"

namespace unigrpo::tensor {

/// Element types across the border. Both throw std::invalid_argument for a type the other side lacks.
at::ScalarType to_scalar_type(io::DType dtype);
io::DType to_dtype(at::ScalarType type);

/// Copies a view's bytes into a tensor of type `target` on `device`.
/// Throws std::invalid_argument naming the tensor when the byte count does not match its shape.
at::Tensor to_tensor(const io::TensorView& view, at::ScalarType target, at::Device device = at::kCPU);
/// The same, keeping the view's own element type.
at::Tensor to_tensor(const io::TensorView& view, at::Device device = at::kCPU);

/// Numbers of rows, positions or ids: [N] int64 on `device`.
at::Tensor index_tensor(const std::vector<int64_t>& values, at::Device device = at::kCPU);

/// A view of a contiguous CPU tensor's bytes, for the writer; the tensor must outlive it.
/// Throws std::invalid_argument for a tensor on another device or with other strides.
io::TensorView to_view(const at::Tensor& tensor, std::string name);

}  // namespace unigrpo::tensor
