#include "optim/ema.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "kernels/ema_update.h"

namespace unigrpo::optim {
namespace {

void check_same(const NamedParameters& averages, const NamedParameters& values) {
  if (averages.size() != values.size()) {
    throw std::invalid_argument("Ema: " + std::to_string(values.size()) + " parameters given, " +
                                std::to_string(averages.size()) + " expected");
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const at::Tensor& tensor = values[i].tensor;
    const bool known = tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16;
    if (values[i].name != averages[i].name || tensor.sizes() != averages[i].tensor.sizes() || !known ||
        !tensor.is_contiguous()) {
      throw std::invalid_argument("Ema: '" + values[i].name + "' does not fit '" + averages[i].name + "'");
    }
  }
}

}  // namespace

Ema::Ema(const EmaConfig& config, const NamedParameters& values) : decay_(config.decay) {
  if (!config.enabled) return;
  const at::NoGradGuard no_grad;
  for (const NamedParameter& value : values) {
    averages_.push_back(
        {value.name, value.tensor.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true), value.piece});
  }
  check_same(averages_, values);
}

void Ema::update(const NamedParameters& values) {
  const at::NoGradGuard no_grad;
  check_same(averages_, values);
  const double n = static_cast<double>(num_updates_);
  const double rate = 1.0 - std::min(decay_, (1.0 + n) / (10.0 + n));
  std::vector<at::Tensor> averages, news;
  for (size_t i = 0; i < values.size(); ++i) {
    averages.push_back(averages_[i].tensor);
    news.push_back(values[i].tensor);
  }
  kernels::ema_update_(averages, news, rate);
  ++num_updates_;
}

State Ema::state() const { return {.tensors = averages_, .values = {{"num_updates", std::to_string(num_updates_)}}}; }

void Ema::load_state(const State& state, const std::string& where) {
  assign(averages_, state.tensors, where);
  num_updates_ = integer_value(state, "num_updates", where);
}

EmaScope::EmaScope(const Ema& ema, const NamedParameters& parameters, std::function<void()> wrote)
    : parameters_(parameters), wrote_(std::move(wrote)) {
  const at::NoGradGuard no_grad;
  check_same(ema.averages(), parameters_);
  for (const NamedParameter& parameter : parameters_) own_values_.push_back(parameter.tensor.detach().clone());
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].tensor.copy_(ema.averages()[i].tensor);
  wrote_();
}

EmaScope::~EmaScope() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].tensor.copy_(own_values_[i]);
  wrote_();
}

}  // namespace unigrpo::optim
