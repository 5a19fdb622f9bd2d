#include "nn/vocabulary.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "kernels/gather_log_prob.h"

namespace unigrpo::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

constexpr const char* kPurpose = "vocabulary";

/// Ids as places in the own run, 0 where another rank has them.
struct Own {
  at::Tensor places, outside;  // [N]

  Own(const at::Tensor& ids, int64_t first, int64_t count) {
    places = ids - first;
    outside = places.lt(0).logical_or(places.ge(count));
    places = places.masked_fill(outside, 0);
  }
};

/// With the logits' largest value m_r and the sum s_r of exp(z - m_r) on rank r:
///
///   log_prob = z_id - log sum_r exp(m_r + log s_r),   z = logits / temperature
class LogProbs : public torch::autograd::Function<LogProbs> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& logits, const at::Tensor& ids, int64_t first,
                            double temperature, const RankGroup& group) {
    const Own own(ids, first, logits.size(1));
    const at::Tensor largest = logits.argmax(1);
    const auto values = [&](const at::Tensor& places) {
      return logits.gather(1, places.unsqueeze(1)).squeeze(1).to(at::kDouble) / temperature;
    };
    // Of the largest one the log-prob is -log s_r, in float32 more exact than m_r + log s_r would be.
    const at::Tensor log_sum = -kernels::gather_log_prob(logits, largest, temperature).log_probs.to(at::kDouble);
    const at::Tensor mine =
        at::stack({values(largest) + log_sum, values(own.places).masked_fill(own.outside, 0)}, 1).contiguous();
    at::Tensor all = at::empty({group->size(), ids.size(0), 2}, mine.options());
    group->all_gather(all, mine, kPurpose);
    constexpr int64_t kOfRanks = 0;
    const at::Tensor log_normalizer = all.select(2, 0).logsumexp(kOfRanks);
    const at::Tensor log_probs = all.select(2, 1).sum(kOfRanks) - log_normalizer;
    const at::ScalarType type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    ctx->save_for_backward({logits, own.places, own.outside, log_normalizer.to(type)});
    ctx->saved_data["temperature"] = temperature;
    return log_probs.to(type);
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &logits = saved[0], &outside = saved[2], &log_normalizer = saved[3], &g = grads[0];
    const at::Tensor places = saved[1].unsqueeze(1), zeros = at::zeros_like(g);
    const double temperature = ctx->saved_data["temperature"].toDouble();
    at::Tensor grad = kernels::gather_log_prob_backward(logits, saved[1], temperature, zeros, log_normalizer, g, zeros);
    // Where another rank has the id, that place is as any other.
    const at::Tensor z = logits.gather(1, places).squeeze(1).to(g.scalar_type()) / temperature;
    const at::Tensor other = (-g * (z - log_normalizer).exp() / temperature).to(grad.scalar_type());
    grad.scatter_(1, places, at::where(outside, other, grad.gather(1, places).squeeze(1)).unsqueeze(1));
    return {grad, at::Tensor(), at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor sliced_embedding(const at::Tensor& table, const at::Tensor& ids, int64_t first, const RankGroup& group) {
  const Own own(ids, first, table.size(0));
  return sum_over(at::embedding(table, own.places).masked_fill(own.outside.unsqueeze(1), 0), group, kPurpose);
}

at::Tensor sliced_log_probs(const at::Tensor& logits, const at::Tensor& ids, int64_t first, double temperature,
                            const RankGroup& group) {
  return LogProbs::apply(logits, ids, first, temperature, group);
}

at::Tensor whole_logits(const at::Tensor& logits, int64_t vocabulary, const RankGroup& group) {
  return gather_rows(logits.t(), even_shares(vocabulary, group->size()), group, GatheredGradient::part, kPurpose)
      .t()
      .contiguous();
}

}  // namespace unigrpo::nn
