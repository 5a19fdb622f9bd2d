#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::kernels {

/// average <- average + rate (value - average), for each tensor of two lists.
///
/// averages: float32; values: float32 or bf16 of the same sizes; all contiguous. On the CPU one pass over memory, with
/// the same bits for any number of threads.
void ema_update_(at::TensorList averages, at::TensorList values, double rate);
/// The same in plain ATen; also what runs on other devices.
void ema_update_reference_(at::TensorList averages, at::TensorList values, double rate);

}  // namespace unigrpo::kernels
