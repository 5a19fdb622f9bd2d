#include "nn/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

at::Tensor turn_composed(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
  const at::Tensor c = cos.unsqueeze(1).to(x.scalar_type());  // [T, 1, Dh / 2]
  const at::Tensor s = sin.unsqueeze(1).to(x.scalar_type());
  const auto halves = x.chunk(2, -1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1);
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void turn_rows(const float* x, const float* cos,
                                                                            const float* sin, float* y, int64_t begin,
                                                                            int64_t end, int64_t heads, int64_t half,
                                                                            float sign) {
  for (int64_t row = begin; row < end; ++row) {
    const float* c = cos + row * half;
    const float* s = sin + row * half;
    for (int64_t head = 0; head < heads; ++head) {
      const float* in = x + (row * heads + head) * 2 * half;
      float* out = y + (row * heads + head) * 2 * half;
#pragma GCC ivdep
      for (int64_t i = 0; i < half; ++i) {
        const float a = in[i], b = in[half + i], turn = sign * s[i];
        out[i] = a * c[i] - b * turn;
        out[half + i] = b * c[i] + a * turn;
      }
    }
  }
}

at::Tensor turn_cpu(const at::Tensor& x_in, const at::Tensor& cos, const at::Tensor& sin, float sign) {
  const at::Tensor x = x_in.contiguous();
  at::Tensor y = at::empty_like(x);
  const int64_t heads = x.size(1), half = x.size(2) / 2;
  const float *xp = x.const_data_ptr<float>(), *cp = cos.const_data_ptr<float>(), *sp = sin.const_data_ptr<float>();
  float* yp = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.size(0), 128,
                   [&](int64_t begin, int64_t end) { turn_rows(xp, cp, sp, yp, begin, end, heads, half, sign); });
  return y;
}

// The inverse of a rotation is the rotation by the negative angle, and so is its gradient.
class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin) {
    ctx->save_for_backward({cos, sin});
    return turn_cpu(x, cos, sin, 1.0F);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    return {turn_cpu(grads[0], saved[0], saved[1], -1.0F), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

RotaryTable rotary_table(const at::Tensor& position_ids, int64_t head_dim, double theta) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(position_ids.device());
  const at::Tensor exponent = at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const at::Tensor frequency = 1.0 / at::pow(theta, exponent);                    // [Dh / 2]
  const at::Tensor angle = position_ids.to(at::kFloat).unsqueeze(1) * frequency;  // [T, Dh / 2]
  return {angle.cos(), angle.sin()};
}

at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table) {
  if (x.device().is_cpu() && x.scalar_type() == at::kFloat) {
    return Rotary::apply(x, table.cos, table.sin);
  }
  return turn_composed(x, table.cos, table.sin);
}

}  // namespace unigrpo::nn
