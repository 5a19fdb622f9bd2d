#pragma once

#include "monitor/monitor.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// The stages of run_sft().
void train_autoencoder(const recipe::Recipe& recipe, monitor::Monitor& monitor);
void train_joint(const recipe::Recipe& recipe, monitor::Monitor& monitor);

}  // namespace unigrpo::train
