#include "nn/sharded_step.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct UnitHolder : torch::CustomClassHolder {
  explicit UnitHolder(const parallel::UnitOf& unit_) : unit(unit_) {}
  parallel::UnitOf unit;
};

/// The identity, at one end of a unit. Its backward pass is the first to run of the unit's where it stands behind it,
/// and the last where it stands before it: autograd runs what is ready in the reverse order of the forward pass, and
/// adds gradients to leaves before all else.
template <bool kIsBehind>
class End : public torch::autograd::Function<End<kIsBehind>> {
 public:
  /// anchor: any tensor that requires a gradient, since the leaves inside the unit may be all there is to train.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& a, const at::Tensor& b,
                               const at::Tensor& /*anchor*/, const parallel::UnitOf& unit) {
    ctx->saved_data["unit"] = c10::IValue::make_capsule(c10::make_intrusive<UnitHolder>(unit));
    ctx->set_materialize_grads(false);
    return {a.view_as(a), b.view_as(b)};
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto holder = c10::static_intrusive_pointer_cast<UnitHolder>(ctx->saved_data["unit"].toCapsule());
    if (kIsBehind) {
      holder->unit.enter(/*again=*/true);
    } else {
      holder->unit.leave(/*again=*/true);
    }
    return {grads[0], grads[1], at::Tensor(), at::Tensor()};
  }
};

}  // namespace

std::pair<at::Tensor, at::Tensor> sharded_step(const PairStep& step, const at::Tensor& a, const at::Tensor& b,
                                               const parallel::UnitOf& unit) {
  const bool records = at::GradMode::is_enabled();
  const at::Tensor anchor = records ? at::zeros({0}).requires_grad_() : at::Tensor();
  std::pair<at::Tensor, at::Tensor> x = {a, b};
  if (records) {
    const variable_list in = End<false>::apply(a, b, anchor, unit);
    x = {in[0], in[1]};
  }
  unit.enter(/*again=*/false);
  x = step(x.first, x.second);
  unit.leave(/*again=*/false);
  if (!records) return x;
  const variable_list out = End<true>::apply(x.first, x.second, anchor, unit);
  return {out[0], out[1]};
}

}  // namespace unigrpo::nn
