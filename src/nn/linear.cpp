#include "nn/linear.h"

#include <ATen/ATen.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <optional>
#include <string_view>

#include "base/hash.h"
#include "tensor/rng.h"

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// oneDNN's matrix product behind PyTorch's own op. For the narrow layers of a small model it runs at more than twice
// the speed of the sgemm behind at::linear (docs/BENCHMARKS.md). Forward only, hence the Function below.
using OneDnnLinear = at::Tensor(const at::Tensor&, const at::Tensor&, const std::optional<at::Tensor>&,
                                std::string_view, c10::List<std::optional<at::Scalar>>,
                                std::optional<std::string_view>);

const std::optional<c10::TypedOperatorHandle<OneDnnLinear>>& onednn_linear() {
  static const auto op = []() -> std::optional<c10::TypedOperatorHandle<OneDnnLinear>> {
    const auto found = c10::Dispatcher::singleton().findSchema({"mkldnn::_linear_pointwise", ""});
    if (!found || !at::globalContext().hasMKLDNN()) return std::nullopt;
    return found->typed<OneDnnLinear>();
  }();
  return op;
}

at::Tensor multiply(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return onednn_linear()->call(x, weight, bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

/// How many rows a product is given so that a row's bits do not depend on how many there are. oneDNN works on tiles,
/// and sums in another order where a tile is not full: with AVX-512 below 16 rows, with AVX2 where 12 do not divide
/// them. Measured for layers of up to kSmallWeight numbers (widths of 64 to 384); wider ones stay as they are, since
/// there added rows cost time.
constexpr int64_t kSmallWeight = 1 << 17;

int64_t rows_of_full_tiles(int64_t rows, int64_t weight_numel) {
  static const bool avx512 = at::get_cpu_capability() == "AVX512";
  if (weight_numel > kSmallWeight) return rows;
  return avx512 ? std::max<int64_t>(rows, 16) : (rows + 23) / 24 * 24;
}

class FastLinear : public torch::autograd::Function<FastLinear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    ctx->save_for_backward({x, weight});
    ctx->saved_data["bias"] = bias.has_value();
    const int64_t rows = x.size(0), tiles = rows_of_full_tiles(rows, weight.numel());
    if (tiles == rows) return multiply(x, weight, bias);
    return multiply(at::constant_pad_nd(x, {0, 0, 0, tiles - rows}), weight, bias).narrow(0, 0, rows);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_x, grad_weight, grad_bias;
    if (ctx->needs_input_grad(0)) grad_x = multiply(grad, weight.t().contiguous(), std::nullopt);
    // [out, T] [T, in]: sgemm reads both where they are, oneDNN's op would need them turned first, which takes longer
    // than the product.
    if (ctx->needs_input_grad(1)) grad_weight = at::mm(grad.t(), x);
    if (ctx->saved_data["bias"].toBool() && ctx->needs_input_grad(2)) grad_bias = grad.sum(0);
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool fast = x.device().is_cpu() && x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat &&
                    x.numel() > 0 && onednn_linear().has_value();
  if (!fast) return at::linear(x, weight, bias);
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = weight.size(0);
  return FastLinear::apply(rows, weight, bias.defined() ? std::optional(bias) : std::nullopt).view(shape);
}

at::Tensor Linear::operator()(const at::Tensor& x, const std::optional<LoraDropout>& dropout) const {
  const at::Tensor y = nn::linear(x, weight, bias);
  if (!lora || !*lora_enabled) return y;
  at::Tensor read = x;
  if (dropout) {
    StreamKey key = dropout->key;
    key.prompt = fnv1a64(name);
    read = x * tensor::uniform(x.sizes(), key).ge(dropout->rate).to(x.options()) / (1.0 - dropout->rate);
  }
  return y + nn::linear(nn::linear(read, lora->a, at::Tensor()), lora->b, at::Tensor()) * lora->scale;
}

Linear take_linear(Weights& weights, const std::string& name, int64_t out, int64_t in, bool bias) {
  Linear result;
  result.name = name;
  result.weight = weights.take(name + ".weight", {out, in});
  if (bias) result.bias = weights.take(name + ".bias", {out});
  return result;
}

}  // namespace unigrpo::nn
