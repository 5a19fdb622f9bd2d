#include "grpo/running_statistics.h"

#include <ATen/ATen.h>

#include <cmath>

#include "base/error.h"
#include "base/statistics.h"

namespace unigrpo::grpo {

double RunningStatistics::Moments::std() const { return std::sqrt(variance); }

RunningStatistics::Moments RunningStatistics::observe(const std::string& key, std::span<const double> values,
                                                      double decay) {
  const Spread step = spread_of(values);
  const auto [found, is_new] = moments_.emplace(key, Moments{step.mean, step.std * step.std});
  Moments& moments = found->second;
  if (!is_new) {  // E[x^2] - mean^2 of the mixture d old + (1 - d) new
    const double apart = step.mean - moments.mean;
    moments.variance =
        decay * moments.variance + (1 - decay) * step.std * step.std + decay * (1 - decay) * apart * apart;
    moments.mean += (1 - decay) * apart;
  }
  return moments;
}

State RunningStatistics::state() const {
  State state;
  for (const auto& [key, moments] : moments_) {
    state.tensors.push_back({key, at::tensor({moments.mean, moments.variance}, at::kDouble)});
  }
  return state;
}

void RunningStatistics::load_state(const State& state, const std::string& where) {
  std::map<std::string, Moments> moments;
  for (const auto& [name, tensor, piece] : state.tensors) {
    if (tensor.scalar_type() != at::kDouble || tensor.sizes() != at::IntArrayRef({2})) {
      throw BadInput("{}: '{}': expected a mean and a variance, float64 [2]", where, name);
    }
    moments[name] = {tensor[0].item<double>(), tensor[1].item<double>()};
  }
  moments_ = std::move(moments);
}

}  // namespace unigrpo::grpo
