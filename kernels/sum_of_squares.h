#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

/// sum_j x_j^2 of each tensor: [n] float64 on the CPU (with one transfer from elsewhere), accumulated in float64.
///
/// tensors: contiguous float32 or bf16. On the CPU in one order whatever the number of threads.
at::Tensor sum_of_squares(at::TensorList tensors);
/// The same in plain ATen; also what runs on other devices.
at::Tensor sum_of_squares_reference(at::TensorList tensors);

}  // namespace unigrpo::kernels
