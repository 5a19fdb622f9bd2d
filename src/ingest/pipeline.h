#pragma once

#include <array>
#include <string>
#include <vector>

#include "ingest/stage.h"

namespace unigrpo::ingest {

/// The stages' names in their order.
inline constexpr std::array kStageNames = {"probe", "shots", "filter", "dedup", "sync", "caption", "curriculum"};

/// The options' stages in their order, each once; throws BadInput for a name that there is not.
std::vector<std::string> chosen_stages(const Options& options);

/// Runs the chosen stages: each reads the rows that the stage before it has kept (of those chosen; the first
/// one, of those whose manifest is there) and writes its own manifest. A stage whose inputs are those of its manifest
/// is not run again; one that was stopped goes on with the rows that it has not measured. Prints a line a stage, rows
/// kept, dropped by reason and seconds, and adds it to log.jsonl. The manifests do not depend on the number of workers.
/// Throws BadInput for a folder that cannot be read or a stage without one before it, Interrupted at a stop.
void run_stages(const Options& options);

}  // namespace unigrpo::ingest
