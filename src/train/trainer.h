#pragma once

#include <filesystem>

#include "base/error.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// `unigrpo train`: rollouts, rewards, advantages, updates, checkpoints, evaluation before and after, the report.
/// Resuming continues bit for bit. Returns ExitCode::interrupted after a signal, with the last finished step saved.
/// Throws BadInput before anything is created in the run folder.
ExitCode run_training(const recipe::Recipe& recipe, bool resume);

}  // namespace unigrpo::train
