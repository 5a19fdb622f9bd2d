#include "kernels/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

UNIGRPO_CLONES void turn_rows(const float* x, const float* cos, const float* sin, float* y, int64_t begin, int64_t end,
                              int64_t heads, int64_t half, float sign) {
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

/// inverse: by the negative angles.
at::Tensor rotary_cpu(const at::Tensor& x_in, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  const at::Tensor x = x_in.contiguous();
  at::Tensor y = at::empty_like(x);
  const int64_t heads = x.size(1), half = x.size(2) / 2;
  const float sign = inverse ? -1.0F : 1.0F;
  const float *xp = x.const_data_ptr<float>(), *cp = cos.const_data_ptr<float>(), *sp = sin.const_data_ptr<float>();
  float* yp = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.size(0), 128,
                   [&](int64_t begin, int64_t end) { turn_rows(xp, cp, sp, yp, begin, end, heads, half, sign); });
  return y;
}

// The inverse of a rotation is the rotation by the negative angle, and so is its gradient.
class Rotary : public torch::autograd::Function<Rotary> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin,
                            bool inverse) {
    context->save_for_backward({cos, sin});
    context->saved_data["inverse"] = inverse;
    return call<&rotary_cpu>("rotary", x, cos, sin, inverse);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const bool back = !context->saved_data["inverse"].toBool();
    return {call<&rotary_cpu>("rotary", grads[0], saved[0], saved[1], back), {}, {}, {}};
  }
};

at::Tensor composed(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& sin, bool inverse) {
  const at::Tensor c = cos.unsqueeze(1).to(x.scalar_type());  // [T, 1, Dh / 2]
  const at::Tensor s = (inverse ? -sin : sin).unsqueeze(1).to(x.scalar_type());
  const auto halves = x.chunk(2, -1);
  return at::cat({halves[0] * c - halves[1] * s, halves[1] * c + halves[0] * s}, -1);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) { m.def("rotary(Tensor x, Tensor cos, Tensor sin, bool inverse) -> Tensor"); }
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("rotary", &composed); }
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) { m.impl("rotary", &rotary_cpu); }
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("rotary", gradient<Rotary>(&rotary_cpu)); }

RotaryTable rotary_table(const at::Tensor& position_ids, int64_t head_dim, double theta) {
  const auto options = at::TensorOptions().dtype(at::kFloat).device(position_ids.device());
  const at::Tensor exponent = at::arange(0, head_dim, 2, options) / static_cast<double>(head_dim);
  const at::Tensor frequency = 1.0 / at::pow(theta, exponent);                    // [Dh / 2]
  const at::Tensor angle = position_ids.to(at::kFloat).unsqueeze(1) * frequency;  // [T, Dh / 2]
  return {angle.cos(), angle.sin()};
}

at::Tensor apply_rotary_reference(const at::Tensor& x, const RotaryTable& table) {
  return composed(x, table.cos, table.sin, false);
}

at::Tensor apply_rotary(const at::Tensor& x, const RotaryTable& table) {
  if (x.scalar_type() == at::kFloat) return call<&rotary_cpu>("rotary", x, table.cos, table.sin, false);
  return apply_rotary_reference(x, table);
}

}  // namespace unigrpo::kernels
