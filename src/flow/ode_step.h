#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::flow {

/// One Euler step of dx/dt = v from t to t_next < t: x + v (t_next - t).
///
/// x, velocity: [B, L, D]; the result is float32 (float64 for float64 x), whatever the velocity's
/// dtype. Throws std::invalid_argument unless 0 <= t_next < t <= 1 and the shapes agree.
at::Tensor ode_step(const at::Tensor& x, const at::Tensor& velocity, double t, double t_next);

}  // namespace unigrpo::flow
