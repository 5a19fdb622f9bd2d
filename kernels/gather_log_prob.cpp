#include "kernels/gather_log_prob.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace unigrpo::kernels {
namespace {

constexpr int64_t kBlock = 512;           // logits held on the stack at a time
constexpr int64_t kLanes = 16;            // independent partial sums
constexpr int64_t kElementsATask = 8192;
constexpr float kLowest = -100.0F;        // exp() of it is 0 in float32; keeps 0 * -inf out of the entropy

/// exp for x <= 0 in a form that the compiler vectorises (std::exp is a call an element).
///
///   exp(x) = 2^n exp(r),   n = round(x / ln 2),   |r| <= ln(2) / 2, polynomial of degree 6 in r
///
/// Relative error below 2e-7; 0 below -87.3, where float32 leaves its normal numbers; nan stays nan.
inline float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * 1.44269504F + kRound) - kRound;
  const float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;  // ln 2 in two parts
  float p = 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const float safe = n > -126.0F ? n : -126.0F;
  const float power = std::bit_cast<float>((static_cast<int32_t>(safe) + 127) << 23);
  const float value = p * power;
  return x < -87.3F ? 0.0F : value;
}
inline double exp_nonpositive(double x) { return std::exp(x); }

/// What a row needs: its largest logit, the sum of e = exp(z - z_max), and the sum of e (z - z_max).
struct RowSums {
  double max = 0, sum = 0, weighted = 0;
};

template <typename In, typename T>
RowSums row_sums(const In* logits, int64_t count, double temperature) {
  std::array<T, kBlock> z;
  std::array<T, kLanes> maxima;
  maxima.fill(-std::numeric_limits<T>::infinity());
  bool has_nan = false;
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t k = 0; k < kLanes; ++k) {
      const auto value = static_cast<T>(logits[i + k]);
      maxima[k] = value > maxima[k] ? value : maxima[k];
    }
  }
  for (; i < count; ++i) maxima[0] = std::max(maxima[0], static_cast<T>(logits[i]));
  const T max = *std::max_element(maxima.begin(), maxima.end());

  RowSums row{.max = static_cast<double>(max)};
  const T scale = static_cast<T>(1.0 / temperature);
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    for (int64_t k = 0; k < size; ++k) {
      const T value = (static_cast<T>(logits[start + k]) - max) * scale;
      z[k] = value < static_cast<T>(kLowest) ? static_cast<T>(kLowest) : value;
    }
    for (int64_t k = size; k < kBlock && k % kLanes != 0; ++k) z[k] = static_cast<T>(kLowest);
    const int64_t padded = (size + kLanes - 1) / kLanes * kLanes;
    std::array<T, kLanes> sums{};
    std::array<T, kLanes> weighted{};
    for (int64_t k = 0; k < padded; k += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const T e = exp_nonpositive(z[k + lane]);
        sums[lane] += e;
        weighted[lane] += e * z[k + lane];
      }
    }
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      row.sum += sums[lane];
      row.weighted += weighted[lane];
    }
    has_nan = has_nan || std::isnan(row.sum);
  }
  if (has_nan) row.sum = std::numeric_limits<double>::quiet_NaN();
  return row;
}

/// A row's logits lie side by side; rows may be any distance apart.
at::Tensor with_dense_rows(const at::Tensor& logits) {
  return logits.size(1) <= 1 || logits.stride(1) == 1 ? logits : logits.contiguous();
}

at::ScalarType result_type(const at::Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gather_log_prob_cpu(const at::Tensor& logits_in,
                                                                   const at::Tensor& ids_in,
                                                                   double temperature) {
  const at::Tensor logits = with_dense_rows(logits_in);
  const at::Tensor ids = ids_in.contiguous();
  const int64_t rows = logits.size(0);
  const int64_t vocabulary = logits.size(1);
  const int64_t* pid = ids.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    TORCH_CHECK(pid[row] >= 0 && pid[row] < vocabulary, "token id ", pid[row], " of row ", row,
                " is not in 0..", vocabulary - 1);
  }
  const auto options = logits.options().dtype(result_type(logits));
  at::Tensor log_probs = at::empty({rows}, options);
  at::Tensor entropy = at::empty({rows}, options);
  at::Tensor log_normalizer = at::empty({rows}, options);  // log sum exp z
  const int64_t stride = logits.stride(0);
  const int64_t grain = std::max<int64_t>(1, kElementsATask / std::max<int64_t>(1, vocabulary));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, logits.scalar_type(), "gather_log_prob", [&] {
        using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        const scalar_t* base = logits.const_data_ptr<scalar_t>();
        at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            const scalar_t* line = base + row * stride;
            const RowSums sums = row_sums<scalar_t, T>(line, vocabulary, temperature);
            const double log_sum = std::log(sums.sum);
            const double z = (static_cast<double>(line[pid[row]]) - sums.max) / temperature;
            log_probs.mutable_data_ptr<T>()[row] = static_cast<T>(z - log_sum);
            entropy.mutable_data_ptr<T>()[row] =
                static_cast<T>(log_sum - sums.weighted / sums.sum);
            log_normalizer.mutable_data_ptr<T>()[row] =
                static_cast<T>(sums.max / temperature + log_sum);
          }
        });
      });
  return {log_probs, entropy, log_normalizer};
}

/// With p = exp(z - log_normalizer), g and h the gradients of log_prob and entropy:
///
///   d logits[v] = ( g (1[v = id] - p[v]) - h p[v] (log p[v] + entropy) ) / temperature
at::Tensor gather_log_prob_backward_cpu(const at::Tensor& logits_in, const at::Tensor& ids_in,
                                        double temperature, const at::Tensor& entropy_in,
                                        const at::Tensor& log_normalizer_in,
                                        const at::Tensor& grad_log_probs_in,
                                        const at::Tensor& grad_entropy_in) {
  const at::Tensor logits = with_dense_rows(logits_in);
  const at::Tensor ids = ids_in.contiguous();
  const at::Tensor entropy = entropy_in.contiguous();
  const at::Tensor log_normalizer = log_normalizer_in.contiguous();
  const at::Tensor grad_log_probs = grad_log_probs_in.contiguous();
  const at::Tensor grad_entropy = grad_entropy_in.contiguous();
  const int64_t rows = logits.size(0);
  const int64_t vocabulary = logits.size(1);
  at::Tensor grad = at::empty({rows, vocabulary}, logits.options());
  const int64_t stride = logits.stride(0);
  const int64_t grain = std::max<int64_t>(1, kElementsATask / std::max<int64_t>(1, vocabulary));
  AT_DISPATCH_FLOATING_TYPES_AND2(
      at::kHalf, at::kBFloat16, logits.scalar_type(), "gather_log_prob_backward", [&] {
        using T = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
        const int64_t* pid = ids.const_data_ptr<int64_t>();
        at::parallel_for(0, rows, grain, [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            const scalar_t* line = logits.const_data_ptr<scalar_t>() + row * stride;
            scalar_t* out = grad.mutable_data_ptr<scalar_t>() + row * vocabulary;
            const T g = grad_log_probs.const_data_ptr<T>()[row];
            const T h = grad_entropy.const_data_ptr<T>()[row];
            const T row_entropy = entropy.const_data_ptr<T>()[row];
            const T normalizer = log_normalizer.const_data_ptr<T>()[row];
            const T scale = static_cast<T>(1.0 / temperature);
            for (int64_t v = 0; v < vocabulary; ++v) {
              const T log_p = static_cast<T>(line[v]) * scale - normalizer;
              const T low = log_p < static_cast<T>(kLowest) ? static_cast<T>(kLowest) : log_p;
              const T clamped = low > T(0) ? T(0) : low;  // rounding can lift log p above 0
              const T p = exp_nonpositive(clamped);
              out[v] = static_cast<scalar_t>((-g * p - h * p * (clamped + row_entropy)) * scale);
            }
            out[pid[row]] = static_cast<scalar_t>(static_cast<T>(out[pid[row]]) + g * scale);
          }
        });
      });
  return grad;
}

using Forward = std::tuple<at::Tensor, at::Tensor, at::Tensor>(const at::Tensor&,
                                                               const at::Tensor&, double);
using Backward = at::Tensor(const at::Tensor&, const at::Tensor&, double, const at::Tensor&,
                            const at::Tensor&, const at::Tensor&, const at::Tensor&);

std::tuple<at::Tensor, at::Tensor, at::Tensor> call_forward(const at::Tensor& logits,
                                                            const at::Tensor& ids,
                                                            double temperature) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("unigrpo::gather_log_prob", "")
                             .typed<Forward>();
  return op.call(logits, ids, temperature);
}

class GatherLogProb : public torch::autograd::Function<GatherLogProb> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context,
                                                const at::Tensor& logits, const at::Tensor& ids,
                                                double temperature) {
    at::AutoDispatchBelowADInplaceOrView below;
    auto [log_probs, entropy, log_normalizer] = call_forward(logits, ids, temperature);
    context->save_for_backward({logits, ids, entropy, log_normalizer});
    context->saved_data["temperature"] = temperature;
    context->mark_non_differentiable({log_normalizer});
    return {log_probs, entropy, log_normalizer};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("unigrpo::gather_log_prob_backward", "")
                               .typed<Backward>();
    const auto saved = context->get_saved_variables();
    const auto zeros_like = [](const at::Tensor& grad, const at::Tensor& like) {
      return grad.defined() ? grad : at::zeros_like(like);
    };
    const at::Tensor grad =
        op.call(saved[0], saved[1], context->saved_data["temperature"].toDouble(), saved[2],
                saved[3], zeros_like(grads[0], saved[2]), zeros_like(grads[1], saved[2]));
    return {grad, at::Tensor(), at::Tensor()};
  }
};

std::tuple<at::Tensor, at::Tensor, at::Tensor> gather_log_prob_autograd(const at::Tensor& logits,
                                                                        const at::Tensor& ids,
                                                                        double temperature) {
  const auto out = GatherLogProb::apply(logits, ids, temperature);
  return {out[0], out[1], out[2]};
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def(
      "gather_log_prob(Tensor logits, Tensor ids, float temperature)"
      " -> (Tensor log_probs, Tensor entropy, Tensor log_normalizer)");
  m.def(
      "gather_log_prob_backward(Tensor logits, Tensor ids, float temperature, Tensor entropy,"
      " Tensor log_normalizer, Tensor grad_log_probs, Tensor grad_entropy) -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) {
  m.impl("gather_log_prob", &gather_log_prob_cpu);
  m.impl("gather_log_prob_backward", &gather_log_prob_backward_cpu);
}
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("gather_log_prob", &gather_log_prob_autograd); }

TokenLogProbs gather_log_prob(const at::Tensor& logits, const at::Tensor& ids,
                              double temperature) {
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "logits must be [N, V], got ",
              logits.sizes());
  TORCH_CHECK(ids.dim() == 1 && ids.size(0) == logits.size(0) && ids.scalar_type() == at::kLong,
              "ids must be [N] int64 with N = ", logits.size(0), ", got ", ids.sizes());
  TORCH_CHECK(ids.device() == logits.device(), "logits and ids must be on one device");
  TORCH_CHECK(temperature > 0, "temperature must be above 0, got ", temperature);
  const auto [log_probs, entropy, log_normalizer] = call_forward(logits, ids, temperature);
  return {log_probs, entropy};
}

}  // namespace unigrpo::kernels
