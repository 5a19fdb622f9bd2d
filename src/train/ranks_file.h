#pragma once

#include <filesystem>

#include "runtime/runtime.h"

namespace unigrpo::train {

/// <run folder>/ranks.json (docs/FORMATS.md): which process is which rank. Nothing without a launcher.
void write_ranks_file(const std::filesystem::path& run_folder, const Runtime& runtime);

}  // namespace unigrpo::train
