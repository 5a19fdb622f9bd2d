#pragma once

#include <c10/core/Device.h>

#include <filesystem>
#include <iosfwd>

namespace unigrpo::cli {

/// Runs every numeric case of a "unigrpo-vectors/1" file through the functions that training uses, on a device.
///
/// Prints one line a failing case, with its largest error, and closes with "N passed, N failed".
/// Returns 0 when none failed, else 1; a case of an unknown op, or whose inputs an op refuses, has
/// failed. Throws BadInput naming file, case and field where the file itself is malformed.
int run_selftest_vectors(const std::filesystem::path& file, std::ostream& out, c10::Device device = c10::kCPU);

}  // namespace unigrpo::cli
