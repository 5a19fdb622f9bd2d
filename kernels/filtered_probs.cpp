#include "kernels/filtered_probs.h"

#include <ATen/ATen.h>

#include <limits>
#include <tuple>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

at::Tensor composed(const at::Tensor& logits, double temperature, int64_t top_k, double top_p) {
  const auto type = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor scaled = logits.to(type) / temperature;  // [N, V]
  const bool cuts_k = top_k > 0 && top_k < logits.size(1);
  if (!cuts_k && top_p >= 1) return scaled.softmax(-1);

  auto [sorted, order] = at::sort(scaled, /*stable=*/true, /*dim=*/-1, /*descending=*/true);
  if (cuts_k) {
    sorted.narrow(1, top_k, logits.size(1) - top_k).fill_(-std::numeric_limits<double>::infinity());
  }
  at::Tensor probs = sorted.softmax(-1);  // [N, V]
  if (top_p < 1) {
    const at::Tensor before = probs.cumsum(-1) - probs;  // probability of all tokens ahead
    probs = probs.masked_fill(before >= top_p, 0);
    probs = probs / probs.sum(-1, /*keepdim=*/true);
  }
  return at::zeros_like(scaled).scatter_(1, order, probs);
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def("filtered_probs(Tensor logits, float temperature, int top_k, float top_p) -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("filtered_probs", &composed); }

at::Tensor filtered_probs(const at::Tensor& logits, const FilterConfig& config) {
  TORCH_CHECK(logits.dim() == 2, "logits must be [N, V], got ", logits.sizes());
  TORCH_CHECK(config.temperature > 0, "temperature must be above 0, got ", config.temperature);
  TORCH_CHECK(config.top_k >= 0, "top_k must be 0 or more, got ", config.top_k);
  TORCH_CHECK(config.top_p > 0 && config.top_p <= 1, "top_p must be in (0, 1], got ", config.top_p);
  const at::NoGradGuard no_grad;
  return call<&composed>("filtered_probs", logits, config.temperature, config.top_k, config.top_p);
}

}  // namespace unigrpo::kernels
