#pragma once

#include <filesystem>
#include <string>

#include "monitor/run_folder.h"
#include "monitor/run_record.h"
#include "recipe/parse.h"
#include "recipe/recipe.h"
#include "train/inputs.h"

namespace unigrpo::train {

/// Throws BadInput where the recipe, or a file that it leads to, is not the one that the run in its folder began with.
/// A resumed run may change how long it is, how it is monitored, how often it is saved, and where it and its files lie.
void require_same_run(const recipe::Recipe& recipe, recipe::Command command, const Inputs& inputs);

/// "unigrpo train runs/a/recipe.toml --resume".
std::string resume_command(const std::filesystem::path& run_dir, recipe::Command command);

/// Writes the run's recipe.toml, and adds this process to its run.json, which it makes where it is missing. Returns
/// what differs from the process before (monitor::changed_build).
std::string record_launch(const monitor::RunFolder& folder, const recipe::Recipe& recipe, monitor::Launch launch,
                          const Inputs& inputs, int64_t steps_done);

/// Throws BadInput where `output`, which a warm start writes, holds the run folder, or holds something that is not an
/// earlier end of the same run.
void check_output(const std::filesystem::path& output, const std::filesystem::path& run_dir, bool resume);

/// What an earlier, shorter end of a run left, its model at `output` among it, is out of date once the run goes on.
void drop_old_end(const monitor::RunFolder& folder, const std::filesystem::path& output, const recipe::Recipe& recipe);

}  // namespace unigrpo::train
