#include "grpo/running_statistics.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace unigrpo::grpo {

double RunningStatistics::Moments::std() const { return std::sqrt(std::max(0.0, square - mean * mean)); }

RunningStatistics::Moments RunningStatistics::observe(const std::string& key, std::span<const double> values,
                                                      double decay) {
  Moments now;
  for (const double value : values) {
    now.mean += value / static_cast<double>(values.size());
    now.square += value * value / static_cast<double>(values.size());
  }
  const auto [found, is_new] = moments_.emplace(key, now);
  Moments& moments = found->second;
  if (!is_new) {
    moments.mean = decay * moments.mean + (1 - decay) * now.mean;
    moments.square = decay * moments.square + (1 - decay) * now.square;
  }
  return moments;
}

State RunningStatistics::state() const {
  State state;
  for (const auto& [key, moments] : moments_) {
    state.tensors.push_back({key, at::tensor({moments.mean, moments.square}, at::kDouble)});
  }
  return state;
}

void RunningStatistics::load_state(const State& state, const std::string& where) {
  std::map<std::string, Moments> moments;
  for (const auto& [name, tensor] : state.tensors) {
    if (tensor.scalar_type() != at::kDouble || tensor.sizes() != at::IntArrayRef({2})) {
      throw BadInput("{}: '{}': expected a mean and a mean square, float64 [2]", where, name);
    }
    moments[name] = {tensor[0].item<double>(), tensor[1].item<double>()};
  }
  moments_ = std::move(moments);
}

}  // namespace unigrpo::grpo
