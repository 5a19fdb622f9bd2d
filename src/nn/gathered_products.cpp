#include "nn/gathered_products.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <cstddef>

#include "kernels/linear.h"

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct Plan : torch::CustomClassHolder {
  RowCounts counts;
  RankGroup group;
  const char* purpose = "";
  size_t num_und = 0;  // of the weights those for this kind, which come first
};
using PlanOf = c10::intrusive_ptr<Plan>;

class Products : public torch::autograd::Function<Products> {
 public:
  /// anchor: any tensor that requires a gradient, since on another rank own or a weight may need one.
  static variable_list forward(AutogradContext* ctx, const at::Tensor& own, const at::Tensor& /*anchor*/,
                               at::TensorList weights, const PlanOf& plan) {
    variable_list kept = {own};
    kept.insert(kept.end(), weights.begin(), weights.end());
    ctx->save_for_backward(kept);
    ctx->saved_data["plan"] = c10::IValue::make_capsule(plan);
    const RowPair x = gather_both(own, plan->counts, plan->group, plan->purpose);
    variable_list out;
    for (size_t k = 0; k < weights.size(); ++k) {
      out.push_back(kernels::linear(k < plan->num_und ? x.und : x.gen, weights[k], at::Tensor()));
    }
    return out;
  }

  /// With g_k the gradient of the k-th product:   dx = sum_k g_k W_k,   dW_k = g_k^T x
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto plan = c10::static_intrusive_pointer_cast<Plan>(ctx->saved_data["plan"].toCapsule());
    const auto saved = ctx->get_saved_variables();
    const RowPair x = gather_both(saved[0], plan->counts, plan->group, plan->purpose);
    RowPair sums{at::zeros_like(x.und), at::zeros_like(x.gen)};
    variable_list out(2);
    for (size_t k = 0; k < grads.size(); ++k) {
      const at::Tensor& weight = saved[k + 1];
      const bool is_und = k < plan->num_und;
      (is_und ? sums.und : sums.gen).addmm_(grads[k], weight);
      const bool trains = ctx->needs_input_grad(k + 2);
      out.push_back(trains ? at::mm(grads[k].t(), is_und ? x.und : x.gen) : at::Tensor());
    }
    out[0] = sum_scatter_both(sums, plan->counts, plan->group, plan->purpose);
    out.emplace_back();  // of the plan
    return out;
  }
};

}  // namespace

std::vector<int64_t> RowCounts::both() const {
  std::vector<int64_t> rows = und;
  for (size_t r = 0; r < rows.size(); ++r) rows[r] += gen[r];
  return rows;
}

RowPair gather_both(const at::Tensor& own, const RowCounts& counts, const RankGroup& group, const char* purpose) {
  const at::Tensor all = gather_rows(own, counts.both(), group, GatheredGradient::part, purpose);
  std::vector<int64_t> sizes;
  for (size_t r = 0; r < counts.und.size(); ++r) sizes.insert(sizes.end(), {counts.und[r], counts.gen[r]});
  const auto pieces = all.split_with_sizes(sizes, 0);
  std::vector<at::Tensor> und, gen;
  for (size_t k = 0; k < pieces.size(); k += 2) {
    und.push_back(pieces[k]);
    gen.push_back(pieces[k + 1]);
  }
  return {at::cat(und, 0), at::cat(gen, 0)};
}

at::Tensor sum_scatter_both(const RowPair& all, const RowCounts& counts, const RankGroup& group, const char* purpose) {
  const auto und = all.und.split_with_sizes(counts.und, 0), gen = all.gen.split_with_sizes(counts.gen, 0);
  std::vector<at::Tensor> pieces;
  for (size_t r = 0; r < und.size(); ++r) pieces.insert(pieces.end(), {und[r], gen[r]});
  return sum_scatter_rows(at::cat(pieces, 0), counts.both(), group, purpose);
}

WeightPair gathered_products(const at::Tensor& own, const RowCounts& counts, const WeightPair& weights,
                             const RankGroup& group, const char* purpose) {
  auto plan = c10::make_intrusive<Plan>();
  plan->counts = counts;
  plan->group = group;
  plan->purpose = purpose;
  plan->num_und = weights.und.size();
  std::vector<at::Tensor> all = weights.und;
  all.insert(all.end(), weights.gen.begin(), weights.gen.end());
  const at::Tensor anchor = at::zeros({0}).requires_grad_(at::GradMode::is_enabled());
  const variable_list out = Products::apply(own, anchor, at::TensorList(all), plan);
  const auto first_gen = out.begin() + static_cast<std::ptrdiff_t>(plan->num_und);
  return {{out.begin(), first_gen}, {first_gen, out.end()}};
}

}  // namespace unigrpo::nn
