#include "train/hooks/hooks.h"

#include "train/evaluator.h"

namespace unigrpo::train {

std::optional<optim::EmaScope> averaged(const RunContext& run) {
  if (!run.recipe.optim.ema.enabled) return std::nullopt;
  return std::make_optional<optim::EmaScope>(run.ema, run.trained,
                                             [&objective = run.objective] { objective.wrote_weights(); });
}

ShownWeights::ShownWeights(const RunContext& run)
    : averages_(is_root(run.runtime) || run.objective.sharded() ? averaged(run) : std::nullopt),
      whole_(run.objective.sharded()) {}

std::vector<std::unique_ptr<StepHook>> make_hooks(const RunContext& run) {
  std::vector<std::unique_ptr<StepHook>> hooks;
  if (run.objective.policy() == nullptr) return hooks;
  if (!run.objective.sampled().empty()) {
    if (run.recipe.monitor.drift.enabled) hooks.push_back(make_drift_hook(run));
    hooks.push_back(make_silence_hook(run));
    if (run.recipe.monitor.sample_every > 0) hooks.push_back(make_sample_hook(run));
  }
  for (const Evaluation& evaluation : run.evaluations) hooks.push_back(make_evaluation_hook(run, evaluation));
  if (run.recipe.eval.keep_best) hooks.push_back(make_keep_best_hook(run));
  return hooks;
}

}  // namespace unigrpo::train
