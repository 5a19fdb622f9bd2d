#include "flow/ode_step.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <stdexcept>

#include "tensor/shape.h"

namespace unigrpo::flow {

at::Tensor ode_step(const at::Tensor& x, const at::Tensor& velocity, double t, double t_next) {
  tensor::check_same_shape(x, "x [B, L, D]", velocity, "velocity [B, L, D]");
  if (!(0 <= t_next && t_next < t && t <= 1)) {
    throw std::invalid_argument(fmt::format("a step needs 0 <= t_next < t <= 1, got t {} and t_next {}", t, t_next));
  }
  const at::Tensor start = tensor::at_least_float32(x);
  return start + velocity.to(start.scalar_type()) * (t_next - t);
}

}  // namespace unigrpo::flow
