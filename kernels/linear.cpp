#include "kernels/linear.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>
#include <string_view>
#include <vector>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// oneDNN's matrix product behind PyTorch's own op. For the narrow layers of a small model it runs at more than twice
// the speed of the sgemm behind at::linear (docs/BENCHMARKS.md). Forward only, hence the gradient below.
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
  if (!onednn_linear()) return at::linear(x, weight, bias);
  // A slice of columns is turned into rows here, so that the copy is not kept for the backward pass.
  return onednn_linear()->call(x, weight.contiguous(), bias, "none", c10::List<std::optional<at::Scalar>>(), "");
}

/// How many rows a product is given so that a row's bits do not depend on how many there are. oneDNN works on tiles,
/// and sums in another order where a tile is not full: with AVX-512 below 16 rows, with AVX2 where 12 do not divide
/// them. Measured for weights of up to kNarrowWeight numbers with up to kNarrowInput columns (beyond those it also cuts
/// the sum into pieces where rows x columns are few); wider ones stay as they are, since there added rows cost time.

int64_t rows_of_full_tiles(int64_t rows, int64_t weight_numel) {
  static const bool avx512 = at::get_cpu_capability() == "AVX512";
  if (weight_numel > kNarrowWeight) return rows;
  return avx512 ? std::max<int64_t>(rows, 16) : (rows + 23) / 24 * 24;
}

/// x: [T, in].
at::Tensor linear_cpu(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  const int64_t rows = x.size(0), tiles = rows_of_full_tiles(rows, weight.numel());
  if (tiles == rows) return multiply(x, weight, bias);
  return multiply(at::constant_pad_nd(x, {0, 0, 0, tiles - rows}), weight, bias).narrow(0, 0, rows);
}

/// With g the gradient of y:   dx = g W,   dW = g^T x,   db = sum over rows of g
class Linear : public torch::autograd::Function<Linear> {
 public:
  static at::Tensor forward(AutogradContext* context, const at::Tensor& x, const at::Tensor& weight,
                            const std::optional<at::Tensor>& bias) {
    context->save_for_backward({x, weight});
    context->saved_data["bias"] = bias.has_value();
    return call<&linear_cpu>("linear", x, weight, bias);
  }
  static variable_list backward(AutogradContext* context, const variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const at::Tensor &x = saved[0], &weight = saved[1];
    const at::Tensor grad = grads[0].contiguous();
    at::Tensor grad_x, grad_weight, grad_bias;
    if (context->needs_input_grad(0)) grad_x = multiply(grad, weight.t().contiguous(), std::nullopt);
    // [out, T] [T, in]: sgemm reads both where they are, oneDNN's op would need them turned first, which takes longer
    // than the product.
    if (context->needs_input_grad(1)) grad_weight = at::mm(grad.t(), x);
    if (context->saved_data["bias"].toBool() && context->needs_input_grad(2)) grad_bias = grad.sum(0);
    return {grad_x, grad_weight, grad_bias};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) { m.def("linear(Tensor x, Tensor weight, Tensor? bias) -> Tensor"); }
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("linear", &linear_reference); }
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) { m.impl("linear", &linear_cpu); }
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("linear", gradient<Linear>(&linear_cpu)); }

at::Tensor linear_reference(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias) {
  return at::linear(x, weight, bias);
}

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias) {
  const bool wide = x.scalar_type() == at::kFloat && weight.scalar_type() == at::kFloat;
  if (!wide || x.numel() == 0) return linear_reference(x, weight, bias);
  std::vector<int64_t> shape(x.sizes().begin(), x.sizes().end());
  shape.back() = weight.size(0);
  const at::Tensor rows = x.reshape({-1, x.size(-1)}).contiguous();
  const auto added = bias.defined() ? std::optional(bias) : std::nullopt;
  return call<&linear_cpu>("linear", rows, weight, added).view(shape);
}

}  // namespace unigrpo::kernels
