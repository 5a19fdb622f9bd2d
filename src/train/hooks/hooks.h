#pragma once

#include <memory>

#include "train/step_hook.h"

namespace unigrpo::train {

/// Scores the policy, averaged weights where EMA is on, on eval.prompts before and after the run and after every
/// eval.every steps; what stands in the run folder already is not scored again.
std::unique_ptr<StepHook> make_evaluation_hook(const RunContext& run, const Evaluation& evaluation);

/// The weights with the best score of the evaluations so far, in best/. Comes after the evaluation hook.
std::unique_ptr<StepHook> make_keep_best_hook(const RunContext& run);

/// What the policy makes of a few prompts, whatever that is worth: the same noise each time (monitor/drift_monitor.h).
std::unique_ptr<StepHook> make_drift_hook(const RunContext& run);

/// Says when the reward has told nothing apart for several steps, or every text was cut off (monitor/silence_watch.h).
std::unique_ptr<StepHook> make_silence_hook(const RunContext& run);

/// In the first step and every monitor.sample_every steps, some of the step's samples with what was thought of them.
std::unique_ptr<StepHook> make_sample_hook(const RunContext& run);

}  // namespace unigrpo::train
