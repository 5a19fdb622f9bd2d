#include "kernels/gather_log_prob.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <type_traits>
#include <vector>

#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kBlock = 512;  // logits whose float32 sum is then added in float64
constexpr int64_t kElementsATask = 8192;
constexpr float kLowest = -100.0F;  // exp() of it is 0 in float32; keeps 0 * -inf out of the entropy

/// What a row needs: its largest logit, the sum of e = exp(z - z_max), and the sum of e (z - z_max).
struct RowSums {
  double max = 0, sum = 0, weighted = 0;
};

UNIGRPO_CLONES RowSums row_sums(const float* logits, int64_t count, double temperature) {
  const int64_t whole = count / kLanes * kLanes;
  float max = max_of(logits, whole);
  for (int64_t i = whole; i < count; ++i) max = logits[i] > max ? logits[i] : max;
  const auto scale = static_cast<float>(1.0 / temperature);
  RowSums row{.max = max};
  for (int64_t start = 0; start < count; start += kBlock) {
    const int64_t size = std::min(kBlock, count - start);
    float z[kBlock];
    for (int64_t i = 0; i < size; ++i) {
      const float value = (logits[start + i] - max) * scale;
      z[i] = value < kLowest ? kLowest : value;
    }
    for (int64_t i = size; i % kLanes != 0; ++i) z[i] = kLowest;
    float sums[kLanes] = {}, weighted[kLanes] = {};
    for (int64_t i = 0; i < size; i += kLanes) {
      for (int64_t lane = 0; lane < kLanes; ++lane) {
        const float e = exp_nonpositive(z[i + lane]);
        sums[lane] += e;
        weighted[lane] += e * z[i + lane];
      }
    }
    row.sum += sum_of(sums);
    row.weighted += sum_of(weighted);
  }
  return row;
}

RowSums row_sums(const double* logits, int64_t count, double temperature) {
  RowSums row{.max = -std::numeric_limits<double>::infinity()};
  for (int64_t i = 0; i < count; ++i) row.max = logits[i] > row.max ? logits[i] : row.max;
  for (int64_t i = 0; i < count; ++i) {
    const double z = (logits[i] - row.max) / temperature;
    const double e = std::exp(z);
    row.sum += e;
    row.weighted += z < kLowest ? 0 : e * z;
  }
  return row;
}

/// A row's gradients: those of its log-prob and of its entropy, and what the forward pass knew of it.
struct RowSlope {
  double log_prob = 0, entropy = 0, value = 0, log_normalizer = 0;  // value: the entropy itself
};

/// With p = exp(z - log_normalizer), g and h the gradients of log_prob and entropy:
///
///   d logits[v] = ( g (1[v = id] - p[v]) - h p[v] (log p[v] + entropy) ) / temperature,   the 1[v = id] apart
UNIGRPO_CLONES void row_gradient(const float* logits, int64_t count, double temperature, const RowSlope& slope,
                                 float* out) {
  const auto scale = static_cast<float>(1.0 / temperature), g = static_cast<float>(slope.log_prob),
             h = static_cast<float>(slope.entropy), entropy = static_cast<float>(slope.value),
             log_normalizer = static_cast<float>(slope.log_normalizer);
  for (int64_t i = 0; i < count; ++i) {
    float log_p = logits[i] * scale - log_normalizer;
    log_p = log_p < kLowest ? kLowest : log_p;
    log_p = log_p > 0 ? 0 : log_p;  // rounding can lift log p above 0
    const float p = exp_nonpositive(log_p);
    out[i] = (-g * p - h * p * (log_p + entropy)) * scale;
  }
}

void row_gradient(const double* logits, int64_t count, double temperature, const RowSlope& slope, double* out) {
  for (int64_t i = 0; i < count; ++i) {
    const double log_p = std::clamp(logits[i] / temperature - slope.log_normalizer, static_cast<double>(kLowest), 0.0);
    const double p = std::exp(log_p);
    out[i] = (-slope.log_prob * p - slope.entropy * p * (log_p + slope.value)) / temperature;
  }
}

/// A row's logits lie side by side; rows may be any distance apart.
at::Tensor with_dense_rows(const at::Tensor& logits) {
  return logits.size(1) <= 1 || logits.stride(1) == 1 ? logits : logits.contiguous();
}

at::ScalarType result_type(const at::Tensor& logits) {
  return logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

/// What a row of T is worked on in.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// Rows of a half type are widened one at a time, so that no copy of all logits is needed.
template <typename T>
struct Scratch {
  std::vector<Wide<T>> line, grad;
};

template <typename T>
const Wide<T>* widened(const T* line, int64_t count, Scratch<T>& scratch) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    return line;
  } else {
    scratch.line.assign(line, line + count);
    return scratch.line.data();
  }
}

/// What fill(row) writes, in the row's own type.
template <typename T, typename Fill>
void narrowed(T* line, int64_t count, Scratch<T>& scratch, const Fill& fill) {
  if constexpr (std::is_same_v<T, Wide<T>>) {
    fill(line);
  } else {
    scratch.grad.resize(count);
    fill(scratch.grad.data());
    std::copy(scratch.grad.begin(), scratch.grad.end(), line);
  }
}

/// Runs row(index, scratch) for all rows of T, in tasks of like size; the scratch is the task's own.
template <typename T, typename Row>
void for_rows(const at::Tensor& logits, const Row& row) {
  const int64_t grain = std::max<int64_t>(1, kElementsATask / std::max<int64_t>(1, logits.size(1)));
  at::parallel_for(0, logits.size(0), grain, [&](int64_t begin, int64_t end) {
    Scratch<T> scratch;
    for (int64_t index = begin; index < end; ++index) row(index, scratch);
  });
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> gather_log_prob_cpu(const at::Tensor& logits_in,
                                                                   const at::Tensor& ids_in, double temperature) {
  const at::Tensor logits = with_dense_rows(logits_in);
  const at::Tensor ids = ids_in.contiguous();
  const int64_t rows = logits.size(0), vocabulary = logits.size(1), stride = logits.stride(0);
  const int64_t* pid = ids.const_data_ptr<int64_t>();
  for (int64_t row = 0; row < rows; ++row) {
    TORCH_CHECK(pid[row] >= 0 && pid[row] < vocabulary, "token id ", pid[row], " of row ", row, " is not in 0..",
                vocabulary - 1);
  }
  at::Tensor log_probs = at::empty({rows}, logits.options().dtype(result_type(logits)));
  at::Tensor entropy = at::empty_like(log_probs);
  at::Tensor log_normalizer = at::empty_like(log_probs);  // log sum exp z
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "gather_log_prob", [&] {
    using T = Wide<scalar_t>;
    const scalar_t* base = logits.const_data_ptr<scalar_t>();
    T *out = log_probs.mutable_data_ptr<T>(), *spread = entropy.mutable_data_ptr<T>(),
      *normalizer = log_normalizer.mutable_data_ptr<T>();
    for_rows<scalar_t>(logits, [&](int64_t row, Scratch<scalar_t>& scratch) {
      const T* line = widened(base + row * stride, vocabulary, scratch);
      const RowSums sums = row_sums(line, vocabulary, temperature);
      const double log_sum = std::log(sums.sum);
      out[row] = static_cast<T>((static_cast<double>(line[pid[row]]) - sums.max) / temperature - log_sum);
      spread[row] = static_cast<T>(log_sum - sums.weighted / sums.sum);
      normalizer[row] = static_cast<T>(sums.max / temperature + log_sum);
    });
  });
  return {log_probs, entropy, log_normalizer};
}

at::Tensor gather_log_prob_backward_cpu(const at::Tensor& logits_in, const at::Tensor& ids_in, double temperature,
                                        const at::Tensor& entropy_in, const at::Tensor& log_normalizer_in,
                                        const at::Tensor& grad_log_probs_in, const at::Tensor& grad_entropy_in) {
  const at::Tensor logits = with_dense_rows(logits_in);
  const at::Tensor ids = ids_in.contiguous();
  const at::Tensor entropy = entropy_in.contiguous(), log_normalizer = log_normalizer_in.contiguous();
  const at::Tensor grad_log_probs = grad_log_probs_in.contiguous(), grad_entropy = grad_entropy_in.contiguous();
  const int64_t vocabulary = logits.size(1), stride = logits.stride(0);
  at::Tensor grad = at::empty({logits.size(0), vocabulary}, logits.options());
  const int64_t* pid = ids.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kHalf, at::kBFloat16, logits.scalar_type(), "gather_log_prob_backward", [&] {
    using T = Wide<scalar_t>;
    const auto at_row = [](const at::Tensor& values, int64_t row) {
      return static_cast<double>(values.const_data_ptr<T>()[row]);
    };
    const scalar_t* base = logits.const_data_ptr<scalar_t>();
    scalar_t* out = grad.mutable_data_ptr<scalar_t>();
    for_rows<scalar_t>(logits, [&](int64_t row, Scratch<scalar_t>& scratch) {
      const RowSlope slope{.log_prob = at_row(grad_log_probs, row),
                           .entropy = at_row(grad_entropy, row),
                           .value = at_row(entropy, row),
                           .log_normalizer = at_row(log_normalizer, row)};
      narrowed(out + row * vocabulary, vocabulary, scratch, [&](T* to) {
        row_gradient(widened(base + row * stride, vocabulary, scratch), vocabulary, temperature, slope, to);
        to[pid[row]] += static_cast<T>(slope.log_prob / temperature);
      });
    });
  });
  return grad;
}

class GatherLogProb : public torch::autograd::Function<GatherLogProb> {
 public:
  static torch::autograd::variable_list forward(torch::autograd::AutogradContext* context, const at::Tensor& logits,
                                                const at::Tensor& ids, double temperature) {
    auto [log_probs, entropy, log_normalizer] = call<&gather_log_prob_cpu>("gather_log_prob", logits, ids, temperature);
    context->save_for_backward({logits, ids, entropy, log_normalizer});
    context->saved_data["temperature"] = temperature;
    context->mark_non_differentiable({log_normalizer});
    return {log_probs, entropy, log_normalizer};
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 const torch::autograd::variable_list& grads) {
    const auto saved = context->get_saved_variables();
    const auto zeros_like = [](const at::Tensor& grad, const at::Tensor& like) {
      return grad.defined() ? grad : at::zeros_like(like);
    };
    const at::Tensor grad =
        gather_log_prob_backward(saved[0], saved[1], context->saved_data["temperature"].toDouble(), saved[2], saved[3],
                                 zeros_like(grads[0], saved[2]), zeros_like(grads[1], saved[2]));
    return {grad, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def(
      "gather_log_prob(Tensor logits, Tensor ids, float temperature)"
      " -> (Tensor log_probs, Tensor entropy, Tensor log_normalizer)");
  m.def(
      "gather_log_prob_backward(Tensor logits, Tensor ids, float temperature, Tensor entropy,"
      " Tensor log_normalizer, Tensor grad_log_probs, Tensor grad_entropy) -> Tensor");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) {
  m.impl("gather_log_prob", [](const at::Tensor& logits, const at::Tensor& ids, double temperature) {
    const auto [log_probs, entropy] = gather_log_prob_reference(logits, ids, temperature);
    return std::tuple(log_probs, entropy, at::Tensor());
  });
}
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) {
  m.impl("gather_log_prob", &gather_log_prob_cpu);
  m.impl("gather_log_prob_backward", &gather_log_prob_backward_cpu);
}
TORCH_LIBRARY_IMPL(unigrpo, Autograd, m) { m.impl("gather_log_prob", gradient<GatherLogProb>(&gather_log_prob_cpu)); }

TokenLogProbs gather_log_prob_reference(const at::Tensor& logits, const at::Tensor& ids, double temperature) {
  const at::Tensor log_p = (logits.to(result_type(logits)) / temperature).log_softmax(-1);       // [N, V]
  const at::Tensor terms = log_p.exp() * log_p.clamp_min(std::numeric_limits<float>::lowest());  // 0 for -inf
  return {log_p.gather(1, ids.unsqueeze(1)).squeeze(1), -terms.sum(-1)};
}

at::Tensor gather_log_prob_backward(const at::Tensor& logits, const at::Tensor& ids, double temperature,
                                    const at::Tensor& entropy, const at::Tensor& log_normalizer,
                                    const at::Tensor& grad_log_probs, const at::Tensor& grad_entropy) {
  return call<&gather_log_prob_backward_cpu>("gather_log_prob_backward", logits, ids, temperature, entropy,
                                             log_normalizer, grad_log_probs, grad_entropy);
}

TokenLogProbs gather_log_prob(const at::Tensor& logits, const at::Tensor& ids, double temperature) {
  TORCH_CHECK(logits.dim() == 2 && logits.size(1) > 0, "logits must be [N, V], got ", logits.sizes());
  TORCH_CHECK(ids.dim() == 1 && ids.size(0) == logits.size(0) && ids.scalar_type() == at::kLong,
              "ids must be [N] int64 with N = ", logits.size(0), ", got ", ids.sizes());
  TORCH_CHECK(ids.device() == logits.device(), "logits and ids must be on one device");
  TORCH_CHECK(temperature > 0, "temperature must be above 0, got ", temperature);
  const auto out = call<&gather_log_prob_cpu>("gather_log_prob", logits, ids, temperature);
  return {std::get<0>(out), std::get<1>(out)};
}

}  // namespace unigrpo::kernels
