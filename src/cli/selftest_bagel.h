#pragma once

#include <filesystem>
#include <iosfwd>

#include "runtime/runtime.h"

namespace unigrpo::cli {

/// `unigrpo selftest --bagel DIR`: a BAGEL folder that also holds golden.json and golden.safetensors, what the official
/// code computes on it (tests/data/README.md tells the schema). Runs every entry found there, on the runtime's device,
/// through the classes that training and sampling use; one line an entry with its largest error, then "N passed, N
/// failed". Returns the process's exit code: 1 where an entry failed or is not known. Throws BadInput naming file and
/// key for a folder that is not of that schema.
int run_selftest_bagel(const std::filesystem::path& folder, std::ostream& out, const Runtime& runtime = {});

}  // namespace unigrpo::cli
