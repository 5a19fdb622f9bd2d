#include "kernels/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <tuple>

#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

UNIGRPO_CLONES void forward_rows(const float* x, const float* weight, float* y, float* inverse, int64_t begin,
                                 int64_t end, int64_t width, float eps) {
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * width;
    float* out = y + row * width;
    float sum = 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) sum += in[i] * in[i];
    const float scale = 1.0F / std::sqrt(sum / static_cast<float>(width) + eps);
    inverse[row] = scale;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) out[i] = in[i] * scale * weight[i];
  }
}

// dx = s w g - x s^3 / D * sum(x w g);   dw += x s g
UNIGRPO_CLONES void backward_rows(const float* x, const float* weight, const float* grad, const float* inverse,
                                  float* grad_x, float* grad_weight, int64_t begin, int64_t end, int64_t width) {
  for (int64_t row = begin; row < end; ++row) {
    const float* in = x + row * width;
    const float* g = grad + row * width;
    float* out = grad_x + row * width;
    const float s = inverse[row];
    float dot = 0;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) dot += in[i] * weight[i] * g[i];
    const float pull = s * s * s * dot / static_cast<float>(width);
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      out[i] = s * weight[i] * g[i] - pull * in[i];
      grad_weight[i] += in[i] * s * g[i];
    }
  }
}

std::tuple<at::Tensor, at::Tensor> forward_cpu(const at::Tensor& x_in, const at::Tensor& weight, double eps) {
  const at::Tensor x = x_in.contiguous();
  const int64_t width = x.size(-1);
  const int64_t rows = width > 0 ? x.numel() / width : 0;
  at::Tensor y = at::empty_like(x), inverse = at::empty({rows}, x.options());
  const float *xp = x.const_data_ptr<float>(), *wp = weight.const_data_ptr<float>();
  float *yp = y.mutable_data_ptr<float>(), *ip = inverse.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 256, [&](int64_t begin, int64_t end) {
    forward_rows(xp, wp, yp, ip, begin, end, width, static_cast<float>(eps));
  });
  return {y, inverse};
}

std::tuple<at::Tensor, at::Tensor> backward_cpu(const at::Tensor& grad_in, const at::Tensor& x_in,
                                                const at::Tensor& weight, const at::Tensor& inverse) {
  const at::Tensor x = x_in.contiguous(), grad = grad_in.contiguous();
  const int64_t width = x.size(-1);
  const int64_t rows = inverse.numel();
  at::Tensor grad_x = at::empty_like(x);
  // Fixed row blocks with a partial sum each, added in order: the same bits for any thread count.
  constexpr int64_t kRowsPerBlock = 512;
  const int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
  at::Tensor partial = at::zeros({std::max<int64_t>(blocks, 1), width}, x.options());
  const float *xp = x.const_data_ptr<float>(), *wp = weight.const_data_ptr<float>(), *gp = grad.const_data_ptr<float>(),
              *ip = inverse.const_data_ptr<float>();
  float *gx = grad_x.mutable_data_ptr<float>(), *pp = partial.mutable_data_ptr<float>();
  at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      backward_rows(xp, wp, gp, ip, gx, pp + block * width, block * kRowsPerBlock,
                    std::min(rows, (block + 1) * kRowsPerBlock), width);
    }
  });
  return {grad_x, partial.sum(0)};
}

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static variable_list forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight, double eps) {
    const auto [y, inverse] = call<&forward_cpu>("rms_norm", x, weight, eps);
    context->save_for_backward({x, weight, inverse});
    context->mark_non_differentiable({inverse});
    context->set_materialize_grads(false);
    return {y, inverse};
  }

  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto [grad_x, grad_weight] = call<&backward_cpu>("rms_norm_backward", grads[0], saved[0], saved[1], saved[2]);
    return {grad_x, grad_weight, at::Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor y, Tensor inverse)");
  m.def("rms_norm_backward(Tensor grad, Tensor x, Tensor weight, Tensor inverse) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) {
  m.impl("rms_norm", [](const at::Tensor& x, const at::Tensor& weight, double eps) {
    return std::tuple(rms_norm_reference(x, weight, eps), at::Tensor());
  });
}
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) {
  m.impl("rms_norm", &forward_cpu);
  m.impl("rms_norm_backward", &backward_cpu);
}
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("rms_norm", gradient<RmsNorm>(&forward_cpu)); }

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, true) + eps);
  return (wide * scale).to(x.scalar_type()) * weight;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const bool wide = x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat && weight.is_contiguous();
  return wide ? std::get<0>(call<&forward_cpu>("rms_norm", x, weight, eps)) : rms_norm_reference(x, weight, eps);
}

}  // namespace unigrpo::kernels
