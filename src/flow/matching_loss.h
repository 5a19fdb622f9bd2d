#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::flow {

/// x_t = (1 - t) x_0 + t noise. latents, noise: [B, L, D]; t: [B]. Returns [B, L, D] float32.
at::Tensor noisy_latents(const at::Tensor& latents, const at::Tensor& noise, const at::Tensor& t);

/// The flow-matching objective of supervised training [B]: the mean over latent elements of
/// (v - (noise - x_0))^2. All [B, L, D]; float32 inside; differentiable in velocity.
/// Throws std::invalid_argument for shapes that differ.
at::Tensor matching_loss(const at::Tensor& velocity, const at::Tensor& latents, const at::Tensor& noise);

}  // namespace unigrpo::flow
