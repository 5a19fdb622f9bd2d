#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>

namespace unigrpo::monitor {

/// Everything that report.html shows, read from the run folder: name, recipe (text), run (what made
/// it, run.json), metrics (by column), evals, grids (samples by step) and pairs (samples before and after), with images
/// as data URIs. A missing piece is empty; a broken one, or a folder without metrics.jsonl, throws BadInput naming the
/// file.
nlohmann::json report_data(const std::filesystem::path& run_dir);

}  // namespace unigrpo::monitor
