#include "kernels/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <utility>

#include "kernels/chunks.h"
#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

/// A step's constants, worked out in double.
struct Constants {
  float grad_scale, decay, one_minus_beta1, beta2, one_minus_beta2, step_size, inverse_sqrt_correction, eps;

  explicit Constants(const AdamWStep& s)
      : grad_scale(static_cast<float>(s.grad_scale)),
        decay(static_cast<float>(1.0 - s.lr * s.weight_decay)),
        one_minus_beta1(static_cast<float>(1.0 - s.beta1)),
        beta2(static_cast<float>(s.beta2)),
        one_minus_beta2(static_cast<float>(1.0 - s.beta2)),
        step_size(static_cast<float>(s.lr / (1.0 - std::pow(s.beta1, static_cast<double>(s.step))))),
        inverse_sqrt_correction(
            static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(s.beta2, static_cast<double>(s.step))))),
        eps(static_cast<float>(s.eps)) {}
};

UNIGRPO_INLINE void update_quad(const Constants& s, const float* grad, float* master, float* exp_avg,
                                float* exp_avg_sq) {
  const Quad g = load_quad(grad) * s.grad_scale;
  Quad m = load_quad(exp_avg), v = load_quad(exp_avg_sq);
  m = m + s.one_minus_beta1 * (g - m);
  v = s.beta2 * v + s.one_minus_beta2 * (g * g);
  const Quad step = s.step_size * (m / (square_root(v) * s.inverse_sqrt_correction + s.eps));
  store_quad(exp_avg, m);
  store_quad(exp_avg_sq, v);
  store_quad(master, load_quad(master) * s.decay - step);
}

void update(const Constants& constants, int64_t size, const float* grad, float* master, float* exp_avg,
            float* exp_avg_sq) {
  const Constants s = constants;  // which no write can reach
  const int64_t whole = size / kQuad * kQuad;
  for (int64_t i = 0; i < whole; i += kQuad) update_quad(s, grad + i, master + i, exp_avg + i, exp_avg_sq + i);
  if (whole == size) return;
  float rest[4][kQuad] = {};
  float* const moved[] = {master, exp_avg, exp_avg_sq};
  std::copy(grad + whole, grad + size, rest[3]);
  for (int64_t k = 0; k < 3; ++k) std::copy(moved[k] + whole, moved[k] + size, rest[k]);
  update_quad(s, rest[3], rest[0], rest[1], rest[2]);
  for (int64_t k = 0; k < 3; ++k) std::copy_n(rest[k], size - whole, moved[k] + whole);
}

/// Gradient: float, or uint16_t for the bits of bf16.
template <typename Gradient>
int64_t update_bf16(const Constants& s, int64_t size, const Gradient* grad, uint16_t* __restrict parameter,
                    float* master, float* exp_avg, float* exp_avg_sq) {
  constexpr int64_t kBlock = 512;
  uint32_t lost = 0;  // chunks are far below 2^32
  for (int64_t start = 0; start < size; start += kBlock) {
    const int64_t count = std::min(kBlock, size - start);
    float wide[kBlock];
    for (int64_t i = 0; i < count; ++i) wide[i] = widen(grad[start + i]);
    update(s, count, wide, master + start, exp_avg + start, exp_avg_sq + start);
    for (int64_t i = start; i < start + count; ++i) {
      const uint16_t narrowed = narrow(master[i]);
      lost += static_cast<uint32_t>(narrowed == parameter[i]) & static_cast<uint32_t>(exp_avg[i] != 0);
      parameter[i] = narrowed;
    }
  }
  return lost;
}

// The struct of tensors goes through the dispatcher as lists, the step's numbers one by one.
int64_t adamw_cpu_(at::TensorList masters, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
                   at::TensorList parameters, at::TensorList grads, double lr, double beta1, double beta2, double eps,
                   double weight_decay, double grad_scale, int64_t step) {
  const Constants constants({lr, beta1, beta2, eps, weight_decay, grad_scale, step});
  std::atomic<int64_t> lost{0};
  for_chunks(cut_into_chunks(parameters), [&](int64_t, const Chunk& chunk) {
    auto* master = mutable_data_of<float>(masters, chunk);
    auto* exp_avg = mutable_data_of<float>(exp_avgs, chunk);
    auto* exp_avg_sq = mutable_data_of<float>(exp_avg_sqs, chunk);
    if (parameters[chunk.index].scalar_type() == at::kBFloat16) {
      auto* parameter = mutable_data_of<uint16_t>(parameters, chunk);
      const bool wide = grads[chunk.index].scalar_type() == at::kFloat;
      lost += wide ? update_bf16(constants, chunk.size, data_of<float>(grads, chunk), parameter, master, exp_avg,
                                 exp_avg_sq)
                   : update_bf16(constants, chunk.size, data_of<uint16_t>(grads, chunk), parameter, master, exp_avg,
                                 exp_avg_sq);
    } else {
      update(constants, chunk.size, data_of<float>(grads, chunk), master, exp_avg, exp_avg_sq);
    }
  });
  return lost;
}

int64_t adamw_library_(at::TensorList masters, at::TensorList exp_avgs, at::TensorList exp_avg_sqs,
                       at::TensorList parameters, at::TensorList grads, double lr, double beta1, double beta2,
                       double eps, double weight_decay, double grad_scale, int64_t step) {
  std::vector<at::Tensor> wide, steps;
  for (size_t i = 0; i < grads.size(); ++i) {
    wide.push_back(grads[i].to(at::kFloat));
    steps.push_back(at::full({}, static_cast<double>(step), exp_avgs[i].options()));
  }
  if (grad_scale != 1.0) wide = at::_foreach_mul(wide, grad_scale);
  at::_fused_adamw_(masters, wide, exp_avgs, exp_avg_sqs, {}, steps, lr, beta1, beta2, weight_decay, eps,
                    /*amsgrad=*/false, /*maximize=*/false);
  at::Tensor lost;
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (parameters[i].scalar_type() != at::kBFloat16) continue;
    const at::Tensor narrowed = masters[i].to(at::kBFloat16);
    const at::Tensor count = (narrowed.eq(parameters[i]) & exp_avgs[i].ne(0)).sum();
    lost = lost.defined() ? lost + count : count;
    parameters[i].copy_(narrowed);
  }
  return lost.defined() ? lost.item<int64_t>() : 0;
}

void check(const AdamWTensors& t) {
  check_chunkable(t.masters, "AdamW's masters");
  check_chunkable(t.parameters, "AdamW's parameters");
  check_chunkable(t.grads, "AdamW's gradients");
  for (size_t i = 0; i < t.parameters.size(); ++i) {
    for (const auto* state : {&t.masters, &t.exp_avgs, &t.exp_avg_sqs}) {
      TORCH_CHECK(state->at(i).scalar_type() == at::kFloat && state->at(i).is_contiguous() &&
                      state->at(i).numel() == t.parameters[i].numel(),
                  "AdamW's state ", i, " must be contiguous float32 of the parameter's size");
    }
    const at::ScalarType type = t.grads.at(i).scalar_type();
    TORCH_CHECK(
        (type == at::kFloat || type == t.parameters[i].scalar_type()) && t.grads[i].numel() == t.parameters[i].numel(),
        "AdamW's gradient ", i, " must be float32 or of its parameter's dtype, and of its size");
  }
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def(
      "adamw_(Tensor(a!)[] masters, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] parameters,"
      " Tensor[] grads, float lr, float beta1, float beta2, float eps, float weight_decay, float grad_scale, int step)"
      " -> int");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("adamw_", &adamw_library_); }
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) { m.impl("adamw_", &adamw_cpu_); }

int64_t adamw_(const AdamWTensors& t, const AdamWStep& s) {
  if (t.parameters.empty()) return 0;
  check(t);
  const at::NoGradGuard no_grad;
  const int64_t lost = call<&adamw_cpu_>("adamw_", t.masters, t.exp_avgs, t.exp_avg_sqs, t.parameters, t.grads, s.lr,
                                         s.beta1, s.beta2, s.eps, s.weight_decay, s.grad_scale, s.step);
  // It writes behind autograd's back; a graph that still holds the old values must notice.
  for (const at::Tensor& parameter : t.parameters) parameter.unsafeGetTensorImpl()->bump_version();
  return lost;
}

int64_t adamw_reference_(const AdamWTensors& t, const AdamWStep& s) {
  const at::NoGradGuard no_grad;
  return adamw_library_(t.masters, t.exp_avgs, t.exp_avg_sqs, t.parameters, t.grads, s.lr, s.beta1, s.beta2, s.eps,
                        s.weight_decay, s.grad_scale, s.step);
}

}  // namespace unigrpo::kernels
