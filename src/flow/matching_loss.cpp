#include "flow/matching_loss.h"

#include <ATen/ATen.h>

#include "flow/velocity_penalty.h"
#include "tensor/shape.h"

namespace unigrpo::flow {

at::Tensor noisy_latents(const at::Tensor& latents, const at::Tensor& noise, const at::Tensor& t) {
  tensor::check_shape(latents, {-1, -1, -1}, "latents [B, L, D]");
  tensor::check_same_shape(latents, "latents [B, L, D]", noise, "noise [B, L, D]");
  tensor::check_shape(t, {latents.size(0)}, "t [B]");
  const at::Tensor x = tensor::at_least_float32(latents);
  const at::Tensor time = t.to(x.scalar_type()).view({-1, 1, 1});  // [B, 1, 1]
  return (1 - time) * x + time * noise.to(x.scalar_type());
}

// L = mean_j (v - (eps - x_0))_j^2
at::Tensor matching_loss(const at::Tensor& velocity, const at::Tensor& latents, const at::Tensor& noise) {
  tensor::check_same_shape(latents, "latents [B, L, D]", noise, "noise [B, L, D]");
  const at::Tensor target = tensor::at_least_float32(noise) - tensor::at_least_float32(latents);
  return velocity_mse(velocity, target);
}

}  // namespace unigrpo::flow
