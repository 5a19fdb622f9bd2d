#include "nn/norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// The definition; also the path of other devices and dtypes.
at::Tensor rms_norm_composed(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(-1, true) + eps);
  return (wide * scale).to(x.scalar_type()) * weight;
}

__attribute__((target_clones("avx512f", "avx2", "default"))) void forward_rows(const float* x, const float* weight,
                                                                               float* y, float* inverse, int64_t begin,
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
__attribute__((target_clones("avx512f", "avx2", "default"))) void backward_rows(const float* x, const float* weight,
                                                                                const float* grad, const float* inverse,
                                                                                float* grad_x, float* grad_weight,
                                                                                int64_t begin, int64_t end,
                                                                                int64_t width) {
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

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_in, const at::Tensor& weight, double eps) {
    const at::Tensor x = x_in.contiguous();
    const int64_t width = x.size(-1);
    const int64_t rows = width > 0 ? x.numel() / width : 0;
    at::Tensor y = at::empty_like(x);
    at::Tensor inverse = at::empty({rows}, x.options());
    const float* xp = x.const_data_ptr<float>();
    const float* wp = weight.const_data_ptr<float>();
    float* yp = y.mutable_data_ptr<float>();
    float* ip = inverse.mutable_data_ptr<float>();
    at::parallel_for(0, rows, 256, [&](int64_t begin, int64_t end) {
      forward_rows(xp, wp, yp, ip, begin, end, width, static_cast<float>(eps));
    });
    ctx->save_for_backward({x, weight, inverse});
    return y;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1], &inverse = saved[2];
    const at::Tensor grad = grads[0].contiguous();
    const int64_t width = x.size(-1);
    const int64_t rows = inverse.numel();
    at::Tensor grad_x = at::empty_like(x);
    // Fixed row blocks with a partial sum each, added in order: the same bits for any thread count.
    constexpr int64_t kRowsPerBlock = 512;
    const int64_t blocks = (rows + kRowsPerBlock - 1) / kRowsPerBlock;
    at::Tensor partial = at::zeros({std::max<int64_t>(blocks, 1), width}, x.options());
    const float* xp = x.const_data_ptr<float>();
    const float* wp = weight.const_data_ptr<float>();
    const float* gp = grad.const_data_ptr<float>();
    const float* ip = inverse.const_data_ptr<float>();
    float* gx = grad_x.mutable_data_ptr<float>();
    float* pp = partial.mutable_data_ptr<float>();
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block) {
        backward_rows(xp, wp, gp, ip, gx, pp + block * width, block * kRowsPerBlock,
                      std::min(rows, (block + 1) * kRowsPerBlock), width);
      }
    });
    return {grad_x, partial.sum(0), at::Tensor()};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const bool fused = x.device().is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                     weight.is_contiguous();
  return fused ? RmsNorm::apply(x, weight, eps) : rms_norm_composed(x, weight, eps);
}

}  // namespace unigrpo::nn
