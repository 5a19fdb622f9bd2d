#pragma once

#include <filesystem>

#include "parallel/sharded_model.h"
#include "runtime/runtime.h"

namespace unigrpo::train {

/// <run folder>/ranks.json (docs/FORMATS.md): which process is which rank, and how they share the work.
/// `sharded`: the model that they hold between them; null: each has all of it. Nothing without a launcher.
void write_ranks_file(const std::filesystem::path& run_folder, const Runtime& runtime,
                      const parallel::ShardedModel* sharded);

}  // namespace unigrpo::train
