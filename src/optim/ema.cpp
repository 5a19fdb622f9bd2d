#include "optim/ema.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <stdexcept>
#include <string>

#include "optim/elementwise.h"

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
  const at::NoGradGuard no_grad;
  for (const NamedParameter& value : values) {
    averages_.push_back({value.name, value.tensor.detach().to(at::kFloat, /*non_blocking=*/false, /*copy=*/true)});
  }
  check_same(averages_, values);
  chunks_ = cut_into_chunks(averages_);
}

void Ema::update(const NamedParameters& values) {
  const at::NoGradGuard no_grad;
  check_same(averages_, values);
  const double n = static_cast<double>(num_updates_);
  const double rate = 1.0 - std::min(decay_, (1.0 + n) / (10.0 + n));
  at::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const Chunk& chunk = chunks_[static_cast<size_t>(c)];
      const at::Tensor& value = values[chunk.index].tensor;
      if (!value.is_cpu()) continue;
      const size_t size = static_cast<size_t>(chunk.end - chunk.begin);
      float* average = averages_[chunk.index].tensor.mutable_data_ptr<float>() + chunk.begin;
      if (value.scalar_type() == at::kFloat) {
        ema_update(static_cast<float>(rate), size, value.const_data_ptr<float>() + chunk.begin, average);
      } else {
        ema_update_bf16(static_cast<float>(rate), size,
                        static_cast<const uint16_t*>(value.const_data_ptr()) + chunk.begin, average);
      }
    }
  });
  for (size_t i = 0; i < values.size(); ++i) {
    if (!values[i].tensor.is_cpu()) averages_[i].tensor.lerp_(values[i].tensor.to(at::kFloat), rate);
  }
  ++num_updates_;
}

void Ema::load_state(const NamedParameters& averages, int64_t num_updates, std::string_view where) {
  assign(averages_, averages, where);
  num_updates_ = num_updates;
}

EmaScope::EmaScope(const Ema& ema, const NamedParameters& parameters) : parameters_(parameters) {
  const at::NoGradGuard no_grad;
  check_same(ema.averages(), parameters_);
  for (const NamedParameter& parameter : parameters_) own_values_.push_back(parameter.tensor.detach().clone());
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].tensor.copy_(ema.averages()[i].tensor);
}

EmaScope::~EmaScope() {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].tensor.copy_(own_values_[i]);
}

}  // namespace unigrpo::optim
