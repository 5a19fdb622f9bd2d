#include "optim/adamw.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/text.h"
#include "optim/elementwise.h"

namespace unigrpo::optim {
namespace {

void check_parameter(const NamedParameter& parameter) {
  const at::Tensor& tensor = parameter.tensor;
  const bool known = tensor.defined() && (tensor.scalar_type() == at::kFloat || tensor.scalar_type() == at::kBFloat16);
  if (!known || !tensor.is_contiguous()) {
    throw std::invalid_argument("AdamW: '" + parameter.name + "' must be contiguous float32 or bf16");
  }
}

// The group of each name: index into `groups`, whose last entry is for what no pattern fits.
size_t group_of(const std::vector<GroupSummary>& groups, std::string_view name) {
  for (size_t index = 0; index + 1 < groups.size(); ++index) {
    if (matches_pattern(name, groups[index].pattern)) return index;
  }
  return groups.size() - 1;
}

struct Scalars {
  double lr;
  double decay;
  double correction1;
  double correction2;
};

Scalars scalars_at(const OptimConfig& config, const GroupSummary& group, bool decays, int64_t step, double lr_factor) {
  const double lr = group.lr * lr_factor;
  return {.lr = lr,
          .decay = decays ? 1.0 - lr * group.weight_decay : 1.0,
          .correction1 = 1.0 - std::pow(config.beta1, static_cast<double>(step)),
          .correction2 = 1.0 - std::pow(config.beta2, static_cast<double>(step))};
}

}  // namespace

AdamW::AdamW(const OptimConfig& config, NamedParameters parameters, UpdateKernel kernel)
    : config_(config), parameters_(std::move(parameters)), chunks_(cut_into_chunks(parameters_)) {
  const at::NoGradGuard no_grad;
  for (const GroupConfig& group : config_.groups) {
    groups_.push_back({.pattern = group.pattern,
                       .lr = group.lr,
                       .weight_decay = group.weight_decay < 0 ? config_.weight_decay : group.weight_decay});
  }
  groups_.push_back({.pattern = "", .lr = config_.lr, .weight_decay = config_.weight_decay});
  std::unordered_set<std::string_view> names;
  use_library_ = kernel == UpdateKernel::library;
  for (const NamedParameter& parameter : parameters_) {
    check_parameter(parameter);
    if (!names.insert(parameter.name).second) {
      throw BadInput("optim: parameter '{}' occurs twice", parameter.name);
    }
    const at::Tensor& tensor = parameter.tensor;
    const auto options = tensor.options().dtype(at::kFloat).requires_grad(false);
    Slot slot{.group = group_of(groups_, parameter.name),
              .decays = tensor.dim() >= 2,
              .exp_avg = at::zeros(tensor.sizes(), options),
              .exp_avg_sq = at::zeros(tensor.sizes(), options),
              .master = {},
              .step = at::zeros({1}, at::kLong)};
    if (tensor.scalar_type() == at::kBFloat16) slot.master = tensor.detach().to(at::kFloat);
    groups_[slot.group].num_parameters += 1;
    groups_[slot.group].num_elements += tensor.numel();
    use_library_ = use_library_ || !tensor.is_cpu();
    slots_.push_back(std::move(slot));
  }
  for (size_t index = 0; index + 1 < groups_.size(); ++index) {
    if (groups_[index].num_parameters == 0) {
      throw BadInput("optim.groups[{}].pattern: '{}' fits no trained parameter that an earlier group left", index,
                     groups_[index].pattern);
    }
  }
}

StepStats AdamW::step(double lr_factor, double grad_scale) {
  const at::NoGradGuard no_grad;
  fault::point("optim.before");
  const StepStats stats =
      use_library_ ? step_with_library(lr_factor, grad_scale) : step_with_loops(lr_factor, grad_scale);
  fault::point("optim.after");
  return stats;
}

StepStats AdamW::step_with_loops(double lr_factor, double grad_scale) {
  std::vector<at::Tensor> grads(parameters_.size());
  std::vector<AdamWScalars> scalars(parameters_.size());
  StepStats stats;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    const at::Tensor& tensor = parameters_[index].tensor;
    const at::Tensor& grad = tensor.grad();
    if (!grad.defined()) continue;
    grads[index] = grad.contiguous();
    Slot& slot = slots_[index];
    const int64_t step = ++*slot.step.mutable_data_ptr<int64_t>();
    const Scalars s = scalars_at(config_, groups_[slot.group], slot.decays, step, lr_factor);
    scalars[index] = {.grad_scale = static_cast<float>(grad_scale),
                      .decay = static_cast<float>(s.decay),
                      .one_minus_beta1 = static_cast<float>(1.0 - config_.beta1),
                      .beta2 = static_cast<float>(config_.beta2),
                      .one_minus_beta2 = static_cast<float>(1.0 - config_.beta2),
                      .step_size = static_cast<float>(s.lr / s.correction1),
                      .inverse_sqrt_correction = static_cast<float>(1.0 / std::sqrt(s.correction2)),
                      .eps = static_cast<float>(config_.eps)};
    stats.num_updated += tensor.numel();
    if (slot.master.defined()) stats.num_bf16 += tensor.numel();
    // The loops write behind autograd's back; a graph that still holds the old values must notice.
    tensor.unsafeGetTensorImpl()->bump_version();
  }
  std::atomic<int64_t> lost{0};
  at::parallel_for(0, static_cast<int64_t>(chunks_.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const Chunk& chunk = chunks_[static_cast<size_t>(c)];
      const at::Tensor& grad = grads[chunk.index];
      if (!grad.defined()) continue;
      const size_t size = static_cast<size_t>(chunk.end - chunk.begin);
      Slot& slot = slots_[chunk.index];
      void* parameter = parameters_[chunk.index].tensor.mutable_data_ptr();
      float* exp_avg = slot.exp_avg.mutable_data_ptr<float>() + chunk.begin;
      float* exp_avg_sq = slot.exp_avg_sq.mutable_data_ptr<float>() + chunk.begin;
      if (slot.master.defined()) {
        lost += adamw_update_bf16(scalars[chunk.index], size,
                                  static_cast<const uint16_t*>(grad.const_data_ptr()) + chunk.begin,
                                  static_cast<uint16_t*>(parameter) + chunk.begin,
                                  slot.master.mutable_data_ptr<float>() + chunk.begin, exp_avg, exp_avg_sq);
      } else {
        adamw_update(scalars[chunk.index], size, grad.const_data_ptr<float>() + chunk.begin,
                     static_cast<float*>(parameter) + chunk.begin, exp_avg, exp_avg_sq);
      }
    }
  });
  stats.num_lost = lost;
  return stats;
}

StepStats AdamW::step_with_library(double lr_factor, double grad_scale) {
  StepStats stats;
  at::Tensor lost;
  // One call for all parameters that share a learning rate, a decay and a device.
  std::vector<size_t> order(parameters_.size());
  std::iota(order.begin(), order.end(), size_t{0});
  const auto key = [&](size_t index) {
    return std::tuple(slots_[index].group, slots_[index].decays, parameters_[index].tensor.get_device());
  };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return key(a) < key(b); });
  for (size_t begin = 0; begin < order.size();) {
    size_t end = begin;
    std::vector<at::Tensor> values, grads, exp_avgs, exp_avg_sqs, steps;
    std::vector<size_t> bf16;
    for (; end < order.size() && key(order[end]) == key(order[begin]); ++end) {
      const size_t index = order[end];
      const at::Tensor& tensor = parameters_[index].tensor;
      if (!tensor.grad().defined()) continue;
      Slot& slot = slots_[index];
      const int64_t step = ++*slot.step.mutable_data_ptr<int64_t>();
      values.push_back(slot.master.defined() ? slot.master : tensor);
      grads.push_back(tensor.grad().contiguous().to(at::kFloat));
      exp_avgs.push_back(slot.exp_avg);
      exp_avg_sqs.push_back(slot.exp_avg_sq);
      steps.push_back(at::full({}, static_cast<double>(step), slot.exp_avg.options()));
      if (slot.master.defined()) bf16.push_back(index);
      stats.num_updated += tensor.numel();
    }
    if (!values.empty()) {
      if (grad_scale != 1.0) grads = at::_foreach_mul(grads, grad_scale);
      const Slot& slot = slots_[order[begin]];
      const GroupSummary& group = groups_[slot.group];
      at::_fused_adamw_(values, grads, exp_avgs, exp_avg_sqs, {}, steps, group.lr * lr_factor, config_.beta1,
                        config_.beta2, slot.decays ? group.weight_decay : 0.0, config_.eps, /*amsgrad=*/false,
                        /*maximize=*/false);
    }
    for (const size_t index : bf16) {
      at::Tensor tensor = parameters_[index].tensor;
      const at::Tensor narrowed = slots_[index].master.to(at::kBFloat16);
      const at::Tensor count = (narrowed.eq(tensor) & slots_[index].exp_avg.ne(0)).sum();
      lost = lost.defined() ? lost + count.to(lost.device()) : count;
      stats.num_bf16 += tensor.numel();
      tensor.copy_(narrowed);
    }
    begin = end;
  }
  if (lost.defined()) stats.num_lost = lost.item<int64_t>();
  return stats;
}

void AdamW::zero_grad() {
  for (NamedParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

NamedParameters AdamW::masters() const {
  NamedParameters result;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    const at::Tensor& master = slots_[index].master;
    result.push_back({parameters_[index].name, master.defined() ? master : parameters_[index].tensor});
  }
  return result;
}

NamedParameters AdamW::state() const {
  NamedParameters result;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    const std::string& name = parameters_[index].name;
    const Slot& slot = slots_[index];
    result.push_back({name + ".exp_avg", slot.exp_avg});
    result.push_back({name + ".exp_avg_sq", slot.exp_avg_sq});
    if (slot.master.defined()) result.push_back({name + ".master", slot.master});
    result.push_back({name + ".step", slot.step});
  }
  return result;
}

void AdamW::load_state(const NamedParameters& saved, std::string_view where) { assign(state(), saved, where); }

void AdamW::reset_masters() {
  const at::NoGradGuard no_grad;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    if (slots_[index].master.defined()) slots_[index].master.copy_(parameters_[index].tensor);
  }
}

}  // namespace unigrpo::optim
