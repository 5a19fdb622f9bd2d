#include "flow/velocity_penalty.h"

#include <ATen/ATen.h>

#include <stdexcept>

#include "tensor/device.h"
#include "tensor/shape.h"

namespace unigrpo::flow {

// L_vel = mean_j (v - v_ref)_j^2
at::Tensor velocity_mse(const at::Tensor& velocity, const at::Tensor& velocity_ref) {
  tensor::check_same_shape(velocity, "velocity [B, L, D]", velocity_ref, "velocity_ref [B, L, D]");
  const at::Tensor off = tensor::at_least_float32(velocity) - tensor::at_least_float32(velocity_ref);
  return off.square().flatten(1).mean(1);  // [B]
}

// mean - mean_ref = c_v (v - v_ref), hence  KL = c_v^2 / (2 std^2) * L_vel
at::Tensor latent_kl(const SdeConfig& config, const at::Tensor& velocity, const at::Tensor& velocity_ref,
                     const TimeSpans& spans) {
  const at::Tensor mse = velocity_mse(velocity, velocity_ref);  // [B]
  const at::Tensor coefficients = sde_coefficients(config, spans, velocity.size(0));
  const at::Tensor std = coefficients.select(1, 2);
  if (std.is_cpu() && std.eq(0).any().item<bool>()) {
    throw std::invalid_argument("the latent KL of a step with std 0 is not defined");
  }
  const at::Tensor weight = (coefficients.select(1, 1).square() / (2 * std.square())).to(mse.scalar_type());
  return mse * tensor::sent(weight, mse.device());
}

}  // namespace unigrpo::flow
