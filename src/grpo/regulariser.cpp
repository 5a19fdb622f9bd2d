#include "grpo/regulariser.h"

#include <ATen/ATen.h>

#include <stdexcept>
#include <utility>

#include "flow/velocity_penalty.h"

namespace unigrpo::grpo {
namespace {

// With d = log pi_ref - log pi:
//
//   k1 = -d                  unbiased, high variance, may be negative
//   k2 = d^2 / 2             biased, low variance
//   k3 = exp(d) - d - 1      unbiased, low variance, never negative
constexpr std::pair<KlEstimator, at::Tensor (*)(const at::Tensor& d)> kKlEstimators[] = {
    {KlEstimator::k1, [](const at::Tensor& d) { return -d; }},
    {KlEstimator::k2, [](const at::Tensor& d) { return d.square() / 2; }},
    {KlEstimator::k3, [](const at::Tensor& d) { return d.expm1() - d; }},  // without the cancellation of exp(d) - 1
};

constexpr FlowPenalty kFlowPenalties[] = {
    {flow::Penalty::velocity_mse, [](const flow::SdeConfig&, const at::Tensor& velocity, const at::Tensor& velocity_ref,
                                     const flow::TimeSpans&) { return flow::velocity_mse(velocity, velocity_ref); }},
    {flow::Penalty::latent_kl,
     [](const flow::SdeConfig& sde, const at::Tensor& velocity, const at::Tensor& velocity_ref,
        const flow::TimeSpans& times) { return flow::latent_kl(sde, velocity, velocity_ref, times); }},
};

}  // namespace

at::Tensor kl_estimate(KlEstimator estimator, const at::Tensor& log_probs, const at::Tensor& ref_log_probs) {
  for (const auto& [name, estimate] : kKlEstimators) {
    if (name == estimator) return estimate(ref_log_probs - log_probs);
  }
  throw std::invalid_argument("unknown KL estimator");
}

const FlowPenalty* flow_penalty(flow::Penalty penalty) {
  for (const FlowPenalty& row : kFlowPenalties) {
    if (row.penalty == penalty) return &row;
  }
  return nullptr;
}

}  // namespace unigrpo::grpo
