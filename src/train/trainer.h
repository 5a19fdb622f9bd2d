#pragma once

#include "base/error.h"
#include "monitor/run_record.h"
#include "recipe/parse.h"
#include "runtime/runtime.h"

namespace unigrpo::train {

/// Runs a recipe to its end in its run folder, by the objective that `command` names: reinforcement learning (train) or
/// a warm start (sft). `resume`: from the newest checkpoint that verifies. `launch`: this process, for run.json.
/// Returns `done`, or `interrupted` where a stop was asked for and the last finished step is saved.
ExitCode run_training(const recipe::Recipe& recipe, recipe::Command command, const Runtime& runtime, bool resume,
                      const monitor::Launch& launch);

}  // namespace unigrpo::train
