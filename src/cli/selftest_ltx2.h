#pragma once

#include <filesystem>
#include <iosfwd>

#include "runtime/runtime.h"

namespace unigrpo::cli {

/// `unigrpo selftest --ltx2 DIR`: an LTX-2 folder in diffusers' layout that also holds golden.json and
/// golden.safetensors, what the official code computes on it (tests/data/README.md tells the schema). Runs every entry
/// found there on the runtime's device, through the classes that training and sampling use; one line an entry with its
/// largest error, then "N passed, N failed". With `out` the model's folder is written there before. Returns the
/// process's exit code: 1 where an entry failed or is not known. Throws BadInput naming file and key or tensor for a
/// folder that is not of that schema.
int run_selftest_ltx2(const std::filesystem::path& folder, const std::filesystem::path& out_folder, std::ostream& out,
                      const Runtime& runtime = {});

}  // namespace unigrpo::cli
