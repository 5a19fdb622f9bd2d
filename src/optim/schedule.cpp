#include "optim/schedule.h"

#include <fmt/format.h>

namespace unigrpo::optim {

State RunSchedule::state() const {
  if (config_.schedule == Schedule::constant) return {};
  return {.values = {{"steps", std::to_string(length_)}}};
}

void RunSchedule::load_state(const State& state, const std::string& where) {
  length_before_ = integer_value(state, "steps", where);
  if (config_.schedule_steps == 0) length_ = length_before_;
}

std::string RunSchedule::describe_change(int64_t step) const {
  if (config_.schedule == Schedule::constant || length_before_ == 0) return "";
  const auto rate = [&](int64_t length) { return config_.lr * lr_factor(config_, step, length); };
  const std::string_view schedule = enum_name(config_.schedule);
  if (length_ != length_before_) {
    return fmt::format(
        "optim.schedule_steps: the {} schedule has {} steps now, {} before: the learning rate of step {} is {:.3g} "
        "instead of {:.3g}",
        schedule, length_, length_before_, step + 1, rate(length_), rate(length_before_));
  }
  if (config_.schedule_steps > 0 || length_ == num_steps_) return "";
  return fmt::format(
      "the {} schedule keeps the {} steps that the run began with, though run.num_steps is {} now: the learning rate "
      "of step {} is {:.3g}; with optim.schedule_steps = {} it would be {:.3g}",
      schedule, length_, num_steps_, step + 1, rate(length_), num_steps_, rate(num_steps_));
}

}  // namespace unigrpo::optim
