#include "kernels/sample_tokens.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kElementsATask = 8192;
constexpr int64_t kBlock = 512;  // logits whose sum is kept, so that one block's exponentials are needed twice

/// The definition, an element after the other with the library's exp: some 10 ns a logit.
int64_t sample_exactly(const float* logits, int64_t count, double uniform, double temperature) {
  double top = -std::numeric_limits<double>::infinity();
  for (int64_t i = 0; i < count; ++i) top = std::max(top, logits[i] / temperature);
  std::vector<double> masses(static_cast<size_t>(count));
  double total = 0;
  for (int64_t i = 0; i < count; ++i) {
    masses[i] = std::exp(logits[i] / temperature - top);
    total += masses[i];
  }
  const double target = uniform * total;
  double running = 0;
  int64_t last = 0;
  for (int64_t i = 0; i < count; ++i) {
    if (masses[i] > 0) last = i;
    running += masses[i];
    if (running > target) return i;
  }
  return last;  // rounding left the number above the last partial sum
}

/// exp for x <= 0 in float64, in a form that the compiler vectorises.
///
///   exp(x) = 2^n exp(r),   n = round(x / ln 2),   |r| <= ln(2) / 2, polynomial of degree 11 in r
///
/// Relative error below 1e-14; 0 below -700, 1e-304 of the largest.
UNIGRPO_INLINE double exp_nonpositive(double x) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
  const double clamped = x > -700.0 ? x : -700.0;
  const double shifted = clamped * 1.4426950408889634 + kRound;
  const double n = shifted - kRound;
  const double r = (clamped - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;  // ln 2 in two parts
  double p = 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const double power = std::bit_cast<double>((std::bit_cast<uint64_t>(shifted) + 1023) << 52);  // n in the low bits
  const double value = p * power;
  return x < -700.0 ? 0.0 : value;
}

/// Masses of `count` logits, kBlock at most; `inverse`: of the temperature.
UNIGRPO_INLINE void masses_of(const float* logits, int64_t count, double inverse, double top, double* masses) {
  for (int64_t i = 0; i < count; ++i) masses[i] = exp_nonpositive(static_cast<double>(logits[i]) * inverse - top);
}

/// The sum of each block's masses.
UNIGRPO_CLONES void block_sums(const float* logits, int64_t count, double inverse, double top, double* sums) {
  for (int64_t first = 0; first < count; first += kBlock) {
    const int64_t size = std::min(kBlock, count - first);
    double masses[kBlock];
    masses_of(logits + first, size, inverse, top, masses);
    for (int64_t i = size; i < kBlock && i % kLanes != 0; ++i) masses[i] = 0;
    double lanes[kLanes] = {};
    for (int64_t i = 0; i < size; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += masses[i + lane];
    }
    double sum = 0;
    for (const double lane : lanes) sum += lane;
    *sums++ = sum;
  }
}

UNIGRPO_CLONES void block_masses(const float* logits, int64_t count, double inverse, double top, double* masses) {
  masses_of(logits, count, inverse, top, masses);
}

UNIGRPO_CLONES float largest(const float* logits, int64_t count) {
  const int64_t whole = count / kLanes * kLanes;
  float top = max_of(logits, whole);
  for (int64_t i = whole; i < count; ++i) top = logits[i] > top ? logits[i] : top;
  return top;
}

/// What sample_exactly() finds, in a fraction of its time: by sums in another order and an exp of its own, which differ
/// from its numbers by less than `apart`. Where the uniform number is so near the edge of a token that
/// this could matter, sample_exactly() is asked.
int64_t sample(const float* logits, int64_t count, double uniform, double temperature, std::vector<double>& sums) {
  const double inverse = 1.0 / temperature, top = static_cast<double>(largest(logits, count)) * inverse;
  sums.resize(static_cast<size_t>((count + kBlock - 1) / kBlock));
  block_sums(logits, count, inverse, top, sums.data());
  double total = 0;
  for (const double sum : sums) total += sum;
  const double target = uniform * total;
  // 1e-14 of each exp, 1e-16 a summand of up to 10^5, the rounding of large exponents, and room.
  const double apart = (1e-10 + 1e-15 * std::abs(top)) * total;
  double running = 0;
  for (size_t block = 0; block < sums.size(); ++block) {
    if (!(running + sums[block] > target + apart)) {  // nan as well: the end of the loop, and exactly
      running += sums[block];
      continue;
    }
    const int64_t first = static_cast<int64_t>(block) * kBlock, size = std::min(kBlock, count - first);
    double masses[kBlock];
    block_masses(logits + first, size, inverse, top, masses);
    for (int64_t i = 0; i < size; ++i) {
      const double before = running;
      running += masses[i];
      if (!(running > target - apart)) continue;
      const bool sure = running > target + apart && (before < target - apart || (block == 0 && i == 0));
      return sure ? first + i : sample_exactly(logits, count, uniform, temperature);
    }
    break;
  }
  return sample_exactly(logits, count, uniform, temperature);
}

at::Tensor sample_tokens_cpu(const at::Tensor& logits_in, const at::Tensor& uniforms_in, double temperature) {
  const at::Tensor logits = logits_in.contiguous(), uniforms = uniforms_in.contiguous();
  const int64_t rows = logits.size(0), vocabulary = logits.size(1);
  at::Tensor ids = at::empty({rows}, at::kLong);
  const float* lp = logits.const_data_ptr<float>();
  const double* up = uniforms.const_data_ptr<double>();
  int64_t* out = ids.mutable_data_ptr<int64_t>();
  at::parallel_for(0, rows, std::max<int64_t>(1, kElementsATask / vocabulary), [&](int64_t begin, int64_t end) {
    std::vector<double> sums;
    for (int64_t row = begin; row < end; ++row) {
      out[row] = sample(lp + row * vocabulary, vocabulary, up[row], temperature, sums);
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
