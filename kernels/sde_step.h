#pragma once

#include <ATen/core/Tensor.h>

#include <tuple>

namespace unigrpo::kernels {

/// Every stochastic step of a flow is affine in the latent and the velocity:
///
///   mean = c_x x + c_v v,    x_next = mean + s n
///   gaussian: log_prob = mean_j [ -(x_next - mean)_j^2 / (2 s^2) ] - log s - log sqrt(2 pi)
///   otherwise (cps): log_prob = -mean_j (x_next - mean)_j^2
///
/// so the kinds of SDE differ in their coefficients alone, which flow/sde_step.h computes.
///
/// x, velocity, noise: [B, ...], one float type (float32; float64 for gradient checks).
/// coefficients: [B, 3] float64 on the same device, columns c_x, c_v, s.
/// Returns x_next [B, ...], mean [B, ...], log_prob [B]. Not differentiable.
/// A row's result depends on that row alone: neither batch size nor threads change a bit.
std::tuple<at::Tensor, at::Tensor, at::Tensor> sde_step(const at::Tensor& x, const at::Tensor& velocity,
                                                        const at::Tensor& noise, const at::Tensor& coefficients,
                                                        bool gaussian);

/// log_prob [B] of a given x_next [B, ...] under the same step: bit-equal to sde_step's where x,
/// velocity and coefficients are. Differentiable in velocity alone.
at::Tensor sde_log_prob(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& x_next,
                        const at::Tensor& coefficients, bool gaussian);

/// Both in plain ATen.
std::tuple<at::Tensor, at::Tensor, at::Tensor> sde_step_reference(const at::Tensor& x, const at::Tensor& velocity,
                                                                  const at::Tensor& noise,
                                                                  const at::Tensor& coefficients, bool gaussian);
at::Tensor sde_log_prob_reference(const at::Tensor& x, const at::Tensor& velocity, const at::Tensor& x_next,
                                  const at::Tensor& coefficients, bool gaussian);

}  // namespace unigrpo::kernels
