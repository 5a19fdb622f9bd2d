#include "nn/collectives.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <functional>
#include <numeric>

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

using Step = std::function<at::Tensor(const at::Tensor&)>;

struct Backward : torch::CustomClassHolder {
  explicit Backward(Step step_) : step(std::move(step_)) {}
  Step step;
};

class Collective : public torch::autograd::Function<Collective> {
 public:
  /// anchor: any tensor that requires a gradient, since on another rank the input may need one.
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& /*anchor*/,
                            const Step& forward, const Step& backward) {
    ctx->saved_data["backward"] = c10::IValue::make_capsule(c10::make_intrusive<Backward>(backward));
    return forward(x);
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto holder = c10::static_intrusive_pointer_cast<Backward>(ctx->saved_data["backward"].toCapsule());
    return {holder->step(grads[0]), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

at::Tensor apply(const at::Tensor& x, const Step& forward, const Step& backward) {
  if (!at::GradMode::is_enabled()) return forward(x);
  return Collective::apply(x, at::zeros({0}).requires_grad_(), forward, backward);
}

int64_t total(const std::vector<int64_t>& counts) { return std::accumulate(counts.begin(), counts.end(), int64_t{0}); }

at::Tensor rows_like(const at::Tensor& rows, int64_t count) {
  std::vector<int64_t> shape = rows.sizes().vec();
  shape.front() = count;
  return at::empty(shape, rows.options());
}

at::Tensor exchanged(const at::Tensor& rows, const std::vector<int64_t>& out_counts,
                     const std::vector<int64_t>& in_counts, parallel::Comm& group, const char* purpose) {
  at::Tensor out = rows_like(rows, total(out_counts));
  group.all_to_all(out, rows.contiguous(), out_counts, in_counts, purpose);
  return out;
}

std::vector<int64_t> of_all(int64_t count, const parallel::Comm& group) {
  return std::vector<int64_t>(static_cast<size_t>(group.size()), count);
}

int64_t own_count(const std::vector<int64_t>& counts, const parallel::Comm& group) {
  return counts[static_cast<size_t>(group.rank())];
}

at::Tensor gathered(const at::Tensor& own, const std::vector<int64_t>& counts, parallel::Comm& group,
                    const char* purpose) {
  std::vector<int64_t> copies(static_cast<size_t>(own.dim()), 1);
  copies.front() = group.size();
  return exchanged(own.repeat(copies), counts, of_all(own.size(0), group), group, purpose);
}

at::Tensor sum_scattered(const at::Tensor& all, const std::vector<int64_t>& counts, parallel::Comm& group,
                         const char* purpose) {
  const int64_t count = own_count(counts, group);
  const at::Tensor parts = exchanged(all, of_all(count, group), counts, group, purpose);
  const at::ScalarType exact = all.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor sum = parts.narrow(0, 0, count).to(exact, /*non_blocking=*/false, /*copy=*/true);
  for (int64_t r = 1; r < group.size(); ++r) sum.add_(parts.narrow(0, r * count, count));
  return sum.to(all.scalar_type());
}

at::Tensor own_rows(const at::Tensor& all, const std::vector<int64_t>& counts, const parallel::Comm& group) {
  const int64_t first = std::accumulate(counts.begin(), counts.begin() + group.rank(), int64_t{0});
  return all.narrow(0, first, own_count(counts, group));
}

}  // namespace

at::Tensor exchange_rows(const at::Tensor& rows, const std::vector<int64_t>& out_counts,
                         const std::vector<int64_t>& in_counts, const RankGroup& group, const char* purpose) {
  return apply(
      rows, [=](const at::Tensor& x) { return exchanged(x, out_counts, in_counts, *group, purpose); },
      [=](const at::Tensor& grad) { return exchanged(grad, in_counts, out_counts, *group, purpose); });
}

at::Tensor gather_rows(const at::Tensor& own, const std::vector<int64_t>& counts, const RankGroup& group,
                       GatheredGradient gradient, const char* purpose) {
  return apply(
      own, [=](const at::Tensor& x) { return gathered(x, counts, *group, purpose); },
      [=](const at::Tensor& grad) {
        return gradient == GatheredGradient::alike ? own_rows(grad, counts, *group)
                                                   : sum_scattered(grad, counts, *group, purpose);
      });
}

at::Tensor sum_over(const at::Tensor& mine, const RankGroup& group, const char* purpose) {
  const auto sum = [=](const at::Tensor& x) {
    at::Tensor all = x.clone(at::MemoryFormat::Contiguous);
    group->all_reduce(all, purpose);
    return all;
  };
  return apply(mine, sum, sum);
}

at::Tensor sum_scatter_rows(const at::Tensor& all, const std::vector<int64_t>& counts, const RankGroup& group,
                            const char* purpose) {
  return apply(
      all, [=](const at::Tensor& x) { return sum_scattered(x, counts, *group, purpose); },
      [=](const at::Tensor& grad) { return gathered(grad, counts, *group, purpose); });
}

}  // namespace unigrpo::nn
