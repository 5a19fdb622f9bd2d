#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

Section eval_section() {
  return Builder("eval", "scores on prompts that are not trained on", [](Recipe& r, size_t) -> auto& { return r.eval; })
      .row("prompts", &EvalConfig::prompts, "prompt file; empty: no evaluation")
      .row("every", &EvalConfig::every, "steps between evaluations; 0: only before and after", between(0, kMany))
      .row("samples", &EvalConfig::samples, "samples a prompt", between(1, 4096))
      .row("max_prompts", &EvalConfig::max_prompts, "0: all", between(0, kMany))
      .row("cfg_scale", &EvalConfig::cfg_scale, "above 1: before and after are also scored with this guidance",
           between(0, 100))
      .row("keep_best", &EvalConfig::keep_best,
           "the model with the best score so far is kept as best/ in the run folder; needs every");
}

}  // namespace

std::vector<Section> eval_sections() { return {eval_section(), eval_rewards_section()}; }

}  // namespace unigrpo::recipe
