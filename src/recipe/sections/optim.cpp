#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using optim::EmaConfig, optim::GroupConfig, optim::OptimConfig;

constexpr double kRate = 1000;  // AdamW moves a weight by about the rate: no model outlives this

Section optim_section() {
  return Builder("optim", "AdamW", [](Recipe& r, size_t) -> auto& { return r.optim; })
      .row("lr", &OptimConfig::lr, "learning rate", up_to(kRate, at_least(0)))
      .row("beta1", &OptimConfig::beta1, "decay of the first moment", from_below(0, 1))
      .row("beta2", &OptimConfig::beta2, "decay of the second moment", from_below(0, 1))
      .row("eps", &OptimConfig::eps, "added to the denominator", between(1e-16, 1))
      .row("weight_decay", &OptimConfig::weight_decay, "decoupled", at_least(0, 1000))
      .row("warmup_steps", &OptimConfig::warmup_steps, "steps of linear warm-up", between(0, kMany))
      .row("schedule", &OptimConfig::schedule, "after warm-up, to 0 after schedule_steps")
      .row("schedule_steps", &OptimConfig::schedule_steps,
           "steps of the schedule, the warm-up among them; 0: run.num_steps as the run began, also where it is resumed "
           "for more or fewer",
           between(0, kMany))
      .row("max_grad_norm", &OptimConfig::max_grad_norm, "0: no clipping", or_else(0, up_to(kScore, at_least(1e-6))))
      .row("on_nonfinite", &OptimConfig::on_nonfinite, "a loss or gradient that is not finite")
      .row("max_skipped", &OptimConfig::max_skipped, "skipped steps in a row before the run stops", between(0, kMany));
}

Section optim_groups_section() {
  return Builder("optim.groups", "parameters with their own rates; the first pattern that fits wins",
                 [](Recipe& r, size_t i) -> auto& { return r.optim.groups[i]; })
      .list_of([](Recipe& r) -> auto& { return r.optim.groups; })
      .row("pattern", &GroupConfig::pattern, "of parameter names, * and ?", text(kNonEmpty), kAlways)
      .row("lr", &GroupConfig::lr, "learning rate", up_to(kRate, at_least(0)), kAlways)
      .row("weight_decay", &GroupConfig::weight_decay, "-1: optim.weight_decay", or_else(-1, at_least(0, 1000)));
}

Section optim_ema_section() {
  return Builder("optim.ema", "moving average of the weights", [](Recipe& r, size_t) -> auto& { return r.optim.ema; })
      .row("enabled", &EmaConfig::enabled, "sample, evaluate and export with it")
      .row("decay", &EmaConfig::decay, "share of the average that a step keeps", from_below(0, 1));
}

}  // namespace

std::vector<Section> optim_sections() { return {optim_section(), optim_groups_section(), optim_ema_section()}; }

}  // namespace unigrpo::recipe
