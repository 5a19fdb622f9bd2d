#pragma once

#include <filesystem>

#include "monitor/run_folder.h"
#include "recipe/parse.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// Throws BadInput naming the keys in which a recipe differs from the run's own (`saved`, which may be absent), but for
/// those that a resumed run may change: how long, how it is monitored, how often it is saved.
void require_same_recipe(const recipe::Recipe& recipe, const std::filesystem::path& saved, recipe::Command command);

/// Throws BadInput where `output`, which a warm start writes, holds the run folder, or holds something that is not an
/// earlier end of the same run.
void check_output(const std::filesystem::path& output, const std::filesystem::path& run_dir, bool resume);

/// What an earlier, shorter end of a run left, its model at `output` among it, is out of date once the run goes on.
void drop_old_end(const monitor::RunFolder& folder, const std::filesystem::path& output);

}  // namespace unigrpo::train
