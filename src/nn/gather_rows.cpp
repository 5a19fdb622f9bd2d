#include "nn/gather_rows.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

__attribute__((target_clones("avx512f", "avx2", "default"))) void add_rows(
    const float* grad, const int64_t* index, float* out, int64_t count, int64_t width, int64_t begin,
    int64_t end) {
  for (int64_t i = 0; i < count; ++i) {
    const float* from = grad + i * width;
    float* to = out + index[i] * width;
#pragma GCC ivdep
    for (int64_t c = begin; c < end; ++c) to[c] += from[c];
  }
}

class GatherRows : public torch::autograd::Function<GatherRows> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& rows, const at::Tensor& index) {
    ctx->save_for_backward({index});
    ctx->saved_data["shape"] = rows.sizes();
    return rows.index_select(0, index);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const at::Tensor index = ctx->get_saved_variables()[0];
    const auto shape = ctx->saved_data["shape"].toIntVector();
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor out = at::zeros(shape, grad.options());
    const int64_t width = out.numel() / std::max<int64_t>(shape[0], 1);
    const float* gp = grad.const_data_ptr<float>();
    const int64_t* ip = index.const_data_ptr<int64_t>();
    float* op = out.mutable_data_ptr<float>();
    // Threads share out the columns, so each element is summed in index order by one thread.
    at::parallel_for(0, width, std::max<int64_t>(16, width / at::get_num_threads()),
                     [&](int64_t begin, int64_t end) {
                       add_rows(gp, ip, op, index.numel(), width, begin, end);
                     });
    return {out, at::Tensor()};
  }
};

}  // namespace

at::Tensor gather_rows(const at::Tensor& rows, const at::Tensor& index) {
  const bool fused = rows.device().is_cpu() && rows.scalar_type() == at::kFloat;
  return fused ? GatherRows::apply(rows, index) : rows.index_select(0, index);
}

}  // namespace unigrpo::nn
