#pragma once

#include <filesystem>
#include <string>

namespace unigrpo {

/// The end of a message about a path that is not there: " (relative to DIR)" with the current directory for a relative
/// path, nothing for an absolute one.
inline std::string seen_from(const std::filesystem::path& path) {
  std::error_code error;
  const std::filesystem::path here = std::filesystem::current_path(error);
  return path.is_absolute() || error ? "" : " (relative to " + here.string() + ")";
}

}  // namespace unigrpo
