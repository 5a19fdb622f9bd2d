#include "optim/adamw.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <stdexcept>
#include <tuple>
#include <unordered_set>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/text.h"
#include "kernels/adamw.h"

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

}  // namespace

AdamW::AdamW(const OptimConfig& config, NamedParameters parameters)
    : config_(config), parameters_(std::move(parameters)) {
  const at::NoGradGuard no_grad;
  for (const GroupConfig& group : config_.groups) {
    groups_.push_back({.pattern = group.pattern,
                       .lr = group.lr,
                       .weight_decay = group.weight_decay < 0 ? config_.weight_decay : group.weight_decay});
  }
  groups_.push_back({.pattern = "", .lr = config_.lr, .weight_decay = config_.weight_decay});
  std::unordered_set<std::string_view> names;
  for (const NamedParameter& parameter : parameters_) {
    check_parameter(parameter);
    if (!names.insert(parameter.name).second) {
      throw BadInput("optim: parameter '{}' occurs twice", parameter.name);
    }
    const at::Tensor& tensor = parameter.tensor;
    const auto options = tensor.options().dtype(at::kFloat).requires_grad(false);
    Slot slot{.group = group_of(groups_, parameter.name),
              .decays = parameter.shape().size() >= 2,
              .exp_avg = at::zeros(tensor.sizes(), options),
              .exp_avg_sq = at::zeros(tensor.sizes(), options),
              .master = {},
              .step = at::zeros({1}, at::kLong)};
    if (tensor.scalar_type() == at::kBFloat16) {
      slot.master = tensor.detach().to(at::kFloat);
      tensor.set_grad_dtype(at::kFloat);  // or a sum of many micro-batches' gradients loses what bf16 rounds away
    }
    groups_[slot.group].num_parameters += 1;
    groups_[slot.group].num_elements += c10::multiply_integers(parameter.shape());
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
  StepStats stats;
  bool moves = false;
  // One call for all parameters that share a learning rate, a decay and a step count.
  std::map<std::tuple<size_t, bool, int64_t>, kernels::AdamWTensors> calls;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    const at::Tensor& tensor = parameters_[index].tensor;
    if (!tensor.grad().defined()) continue;
    Slot& slot = slots_[index];
    const int64_t step = ++*slot.step.mutable_data_ptr<int64_t>();
    moves = true;
    if (tensor.numel() == 0) continue;  // another rank's
    kernels::AdamWTensors& list = calls[{slot.group, slot.decays, step}];
    list.masters.push_back(slot.master.defined() ? slot.master : tensor);
    list.exp_avgs.push_back(slot.exp_avg);
    list.exp_avg_sqs.push_back(slot.exp_avg_sq);
    list.parameters.push_back(tensor);
    list.grads.push_back(tensor.grad().contiguous());
    stats.num_updated += tensor.numel();
    if (slot.master.defined()) stats.num_bf16 += tensor.numel();
  }
  for (const auto& [shared, tensors] : calls) {
    const auto& [group, decays, step] = shared;
    stats.num_lost += kernels::adamw_(tensors, {.lr = groups_[group].lr * lr_factor,
                                                .beta1 = config_.beta1,
                                                .beta2 = config_.beta2,
                                                .eps = config_.eps,
                                                .weight_decay = decays ? groups_[group].weight_decay : 0.0,
                                                .grad_scale = grad_scale,
                                                .step = step});
  }
  if (moves) ++num_steps_;
  fault::point("optim.after");
  return stats;
}

int64_t AdamW::num_updates() const {
  int64_t most = 0;
  for (const Slot& slot : slots_) most = std::max(most, *slot.step.const_data_ptr<int64_t>());
  return most;
}

void AdamW::zero_grad() {
  for (NamedParameter& parameter : parameters_) parameter.tensor.mutable_grad().reset();
}

NamedParameters AdamW::masters() const {
  NamedParameters result;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    const at::Tensor& master = slots_[index].master;
    const NamedParameter& parameter = parameters_[index];
    result.push_back({parameter.name, master.defined() ? master : parameter.tensor, parameter.piece});
  }
  return result;
}

State AdamW::state() const {
  State result;
  for (size_t index = 0; index < parameters_.size(); ++index) {
    const auto& [name, tensor, piece] = parameters_[index];
    const Slot& slot = slots_[index];
    result.tensors.push_back({name + ".exp_avg", slot.exp_avg, piece});
    result.tensors.push_back({name + ".exp_avg_sq", slot.exp_avg_sq, piece});
    if (slot.master.defined()) result.tensors.push_back({name + ".master", slot.master, piece});
    result.tensors.push_back({name + ".step", slot.step});
  }
  return result;
}

void AdamW::load_state(const State& saved, const std::string& where) { assign(state().tensors, saved.tensors, where); }

}  // namespace unigrpo::optim
