#pragma once

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cstdlib>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "optim/parameters.h"
#include "runtime/stateful.h"
#include "train/step_metrics.h"

namespace unigrpo::train {

/// The metrics of a step that is done but for what comes after its update: an evaluation that a stop cut short. A
/// checkpoint keeps them for the process that goes on.
class OpenRow : public Stateful {
 public:
  std::string name() const override { return "open_row"; }
  State state() const override {
    State state;
    for (const auto& [name, value] : values) state.values[name] = fmt::format("{}", value);  // reads back exactly
    return state;
  }
  void load_state(const State& state, const std::string& /*where*/) override {
    for (const auto& [name, text] : state.values) values[name] = std::strtod(text.c_str(), nullptr);
  }

  /// The last row of metrics that stands: an open one is written again, and of step 0 all begins anew.
  int64_t last_row(int64_t steps_done) const {
    if (steps_done == 0) return -1;
    return values.empty() ? steps_done : steps_done - 1;
  }

  Metrics values;  // empty: every step done has its row
};

/// The trained parameters as a part of checkpoints. `wrote`: called once they were loaded.
class Weights : public Stateful {
 public:
  Weights(const NamedTensors& parameters, std::function<void()> wrote)
      : parameters_(parameters), wrote_(std::move(wrote)) {}
  std::string name() const override { return "policy"; }
  State state() const override { return {.tensors = parameters_}; }
  void load_state(const State& state, const std::string& where) override {
    const at::NoGradGuard no_grad;
    optim::assign(parameters_, state.tensors, where);
    wrote_();
  }

 private:
  const NamedTensors& parameters_;
  std::function<void()> wrote_;
};

/// How components stood before a step, for one that is dropped.
class StateBefore {
 public:
  explicit StateBefore(const std::vector<Stateful*>& components) {
    const at::NoGradGuard no_grad;
    for (Stateful* component : components) {
      State state = component->state();
      for (NamedTensor& named : state.tensors) named.tensor = named.tensor.clone();
      states_.emplace_back(component, std::move(state));
    }
  }
  void restore() const {
    for (const auto& [component, state] : states_) component->load_state(state, component->name());
  }

 private:
  std::vector<std::pair<Stateful*, State>> states_;
};

}  // namespace unigrpo::train
