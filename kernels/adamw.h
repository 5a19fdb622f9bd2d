#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace unigrpo::kernels {

/// What one step shares among its tensors. step: counted from 1; grad_scale multiplies the gradients as they are read.
struct AdamWStep {
  double lr = 0, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weight_decay = 0, grad_scale = 1;
  int64_t step = 1;
};

/// n tensors and their state, all contiguous. The values that move are the masters, float32; a parameter in bf16 gets
/// its master's number rounded, one in float32 is its own master (the same tensor).
struct AdamWTensors {
  std::vector<at::Tensor> masters, exp_avgs, exp_avg_sqs;  // float32, changed
  std::vector<at::Tensor> parameters;                      // float32 or bf16, changed
  std::vector<at::Tensor> grads;                           // float32, or of the parameter's dtype
};

/// One step of AdamW with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), with g the scaled gradient:
///
///   m <- m + (1 - beta1) (g - m)          v <- beta2 v + (1 - beta2) g^2
///   p <- p (1 - lr weight_decay) - lr / (1 - beta1^t) * m / ( sqrt(v) / sqrt(1 - beta2^t) + eps )
///
/// Returns how many elements of bf16 parameters had an update (m not zero) that left their bf16 number as it was.
/// On the CPU one pass over memory, with the same bits for any number of threads.
int64_t adamw_(const AdamWTensors& tensors, const AdamWStep& step);
/// The same by PyTorch's fused optimizer; also what runs on other devices.
int64_t adamw_reference_(const AdamWTensors& tensors, const AdamWStep& step);

}  // namespace unigrpo::kernels
