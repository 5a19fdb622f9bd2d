#include "kernels/sample_tokens.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kElementsATask = 8192;

int64_t sample(const float* logits, double uniform, double temperature, std::vector<double>& masses) {
  double top = -std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < masses.size(); ++i) top = std::max(top, logits[i] / temperature);
  double total = 0;
  for (size_t i = 0; i < masses.size(); ++i) {
    masses[i] = std::exp(logits[i] / temperature - top);
    total += masses[i];
  }
  const double target = uniform * total;
  double running = 0;
  size_t last = 0;
  for (size_t i = 0; i < masses.size(); ++i) {
    if (masses[i] > 0) last = i;
    running += masses[i];
    if (running > target) return static_cast<int64_t>(i);
  }
  return static_cast<int64_t>(last);  // rounding left the number above the last partial sum
}

at::Tensor sample_tokens_cpu(const at::Tensor& logits_in, const at::Tensor& uniforms_in, double temperature) {
  const at::Tensor logits = logits_in.contiguous(), uniforms = uniforms_in.contiguous();
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  at::Tensor ids = at::empty({rows}, at::kLong);
  const float* lp = logits.const_data_ptr<float>();
  const double* up = uniforms.const_data_ptr<double>();
  int64_t* out = ids.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows, std::max<int64_t>(1, kElementsATask / vocabulary), [&](int64_t begin, int64_t end) {
    std::vector<double> masses(vocabulary);
    for (int64_t row = begin; row < end; ++row) {
      out[row] = sample(lp + row * vocabulary, up[row], temperature, masses);
    }
  });
  return ids;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def("sample_tokens(Tensor logits, Tensor uniforms, float temperature) -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("sample_tokens", &sample_tokens_reference); }
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) { m.impl("sample_tokens", &sample_tokens_cpu); }

at::Tensor sample_tokens_reference(const at::Tensor& logits, const at::Tensor& uniforms, double temperature) {
  const at::Tensor running = (logits.to(at::kDouble) / temperature).softmax(-1).cumsum(-1);  // [N, V]
  return running.le(uniforms.unsqueeze(1)).sum(-1).clamp_max(logits.size(1) - 1);
}

at::Tensor sample_tokens(const at::Tensor& logits, const at::Tensor& uniforms, double temperature) {
  static const auto op = find_op("sample_tokens", &sample_tokens_cpu);
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0 && logits.scalar_type() == at::kFloat,
              "logits must be [N, V] float32, got ", logits.scalar_type(), " ", logits.sizes());
  TORCH_CHECK(uniforms.dim() == 1 && uniforms.size(0) == logits.size(0) && uniforms.scalar_type() == at::kDouble,
              "uniforms must be [N] float64 with N = ", logits.size(0), ", got ", uniforms.sizes());
  TORCH_CHECK(temperature > 0, "temperature must be above 0, got ", temperature);
  const at::NoGradGuard no_grad;
  return call(op, logits, uniforms, temperature);
}

}  // namespace unigrpo::kernels
