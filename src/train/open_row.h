#pragma once

#include <fmt/format.h>

#include <cstdlib>
#include <string>

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

  Metrics values;  // empty: every step done has its row
};

}  // namespace unigrpo::train
