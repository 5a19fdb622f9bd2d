#include "nn/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Holder : torch::CustomClassHolder {
  explicit Holder(PairStep step_) : step(std::move(step_)) {}
  PairStep step;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  /// anchor: any tensor that requires a gradient, since the leaves inside the step may be all there is to train.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& a, const at::Tensor& b,
                               const at::Tensor& /*anchor*/, const PairStep& step) {
    ctx->save_for_backward({a, b});
    ctx->saved_data["step"] = c10::IValue::make_capsule(c10::make_intrusive<Holder>(step));
    const auto [x, y] = step(a, b);  // a Function's forward records nothing
    return {x, y};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto holder = c10::static_intrusive_pointer_cast<Holder>(ctx->saved_data["step"].toCapsule());
    const at::Tensor a = saved[0].detach().requires_grad_(), b = saved[1].detach().requires_grad_();
    variable_list outputs, upstream;
    {
      const at::AutoGradMode enable(true);
      const auto [x, y] = holder->step(a, b);
      for (const auto& [output, grad] : {std::pair(x, grads[0]), std::pair(y, grads[1])}) {
        if (!output.requires_grad() || !grad.defined()) continue;
        outputs.push_back(output);
        upstream.push_back(grad);
      }
    }
    if (!outputs.empty()) torch::autograd::backward(outputs, upstream);
    return {a.grad(), b.grad(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

std::pair<at::Tensor, at::Tensor> recompute(const PairStep& step, const at::Tensor& a, const at::Tensor& b) {
  if (!at::GradMode::is_enabled()) return step(a, b);
  const at::Tensor anchor = at::zeros({0}).requires_grad_();
  const variable_list out = Recompute::apply(a, b, anchor, step);
  return {out[0], out[1]};
}

}  // namespace unigrpo::nn
