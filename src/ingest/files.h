#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <vector>

namespace unigrpo::ingest {

/// The files of a folder at any depth, a row each, by path: {"id", "path" (relative), "bytes", "changed", "sidecars":
/// [{"path", "bytes", "changed"}]}. Text and JSON beside a file of the same stem are its sidecars, and hidden files,
/// links and what is within `except` are left out. Throws BadInput for a folder that cannot be read.
std::vector<nlohmann::json> list_files(const std::filesystem::path& folder, const std::filesystem::path& except);

}  // namespace unigrpo::ingest
