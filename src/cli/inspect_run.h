#pragma once

#include <filesystem>
#include <string>

namespace unigrpo::cli {

/// A checkpoint of a run, runs/NAME/checkpoints/step_N: what it holds, every file checked against the manifest. Throws
/// BadInput naming the file that is damaged.
std::string inspect_checkpoint(const std::filesystem::path& folder, bool json);

/// A run folder: how far it is, which checkpoints, evaluations and models are there.
std::string inspect_run(const std::filesystem::path& folder, bool json);

}  // namespace unigrpo::cli
