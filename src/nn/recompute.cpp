#include "nn/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct StepHolder : torch::CustomClassHolder {
  StepHolder(PairStep step_, const parallel::UnitOf& unit_) : step(std::move(step_)), unit(unit_) {}
  PairStep step;
  parallel::UnitOf unit;
};

std::pair<at::Tensor, at::Tensor> run_once(const PairStep& step, const at::Tensor& a, const at::Tensor& b,
                                           const parallel::UnitOf& unit) {
  unit.enter(/*again=*/false);
  const auto out = step(a, b);
  unit.leave(/*again=*/false);
  return out;
}

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  /// anchor: any tensor that requires a gradient, since the leaves inside the step may be all there is to train.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& a, const at::Tensor& b,
                               const at::Tensor& /*anchor*/, const PairStep& step, const parallel::UnitOf& unit) {
    ctx->save_for_backward({a, b});
    ctx->saved_data["step"] = c10::IValue::make_capsule(c10::make_intrusive<StepHolder>(step, unit));
    const auto [x, y] = run_once(step, a, b, unit);  // a Function's forward records nothing
    return {x, y};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const auto holder = c10::static_intrusive_pointer_cast<StepHolder>(ctx->saved_data["step"].toCapsule());
    const at::Tensor a = saved[0].detach().requires_grad_(), b = saved[1].detach().requires_grad_();
    holder->unit.enter(/*again=*/true);
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
    holder->unit.leave(/*again=*/true);
    return {a.grad(), b.grad(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

std::pair<at::Tensor, at::Tensor> recompute(const PairStep& step, const at::Tensor& a, const at::Tensor& b,
                                            const parallel::UnitOf& unit) {
  if (!at::GradMode::is_enabled()) return run_once(step, a, b, unit);
  const at::Tensor anchor = at::zeros({0}).requires_grad_();
  const variable_list out = Recompute::apply(a, b, anchor, step, unit);
  return {out[0], out[1]};
}

}  // namespace unigrpo::nn
