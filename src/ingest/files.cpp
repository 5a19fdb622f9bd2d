#include "ingest/files.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/utf8.h"

namespace unigrpo::ingest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

bool is_sidecar(const fs::path& path) { return path.extension() == ".json" || path.extension() == ".txt"; }

/// "/a/b.mp4" -> "b" within its folder; what a sidecar is found by.
std::string stem_of(const std::string& path) { return (fs::path(path).parent_path() / fs::path(path).stem()).string(); }

json describe(const fs::directory_entry& file, const std::string& path) {
  // Nanoseconds since an epoch of the library's own: only whether it is another one counts.
  const auto changed = std::chrono::nanoseconds(file.last_write_time().time_since_epoch()).count();
  return {{"path", path}, {"bytes", file.file_size()}, {"changed", changed}};
}

}  // namespace

std::vector<json> list_files(const fs::path& folder, const fs::path& except) try {
  std::map<std::string, json> files, sidecars;
  const fs::path set = fs::weakly_canonical(except);
  for (auto entry = fs::recursive_directory_iterator(folder); entry != fs::recursive_directory_iterator(); ++entry) {
    const bool hidden = entry->path().filename().string().starts_with(".");
    if (hidden || entry->is_symlink() || (entry->is_directory() && fs::weakly_canonical(entry->path()) == set)) {
      entry.disable_recursion_pending();
      continue;
    }
    if (!entry->is_regular_file()) continue;
    const std::string path = entry->path().lexically_relative(folder).generic_string();
    if (is_sidecar(entry->path()) && valid_utf8(path) != path) continue;
    (is_sidecar(entry->path()) ? sidecars : files)[path] = describe(*entry, path);
  }
  std::map<std::string, json> by_stem;
  for (auto& [path, sidecar] : sidecars) by_stem[stem_of(path)].push_back(std::move(sidecar));
  std::vector<json> rows;
  for (auto& [path, row] : files) {
    const auto found = by_stem.find(stem_of(path));
    row["sidecars"] = found == by_stem.end() ? json::array() : found->second;
    row["id"] = path;
    // A name that is no UTF-8 cannot stand in a manifest.
    if (valid_utf8(path) != path) {
      row["path"] = row["id"] = valid_utf8(path);
      row["unreadable"] = true;
    }
    rows.push_back(std::move(row));
  }
  return rows;
} catch (const fs::filesystem_error& error) {
  throw BadInput("{}: cannot be read: {}", error.path1().string(), error.code().message());
}

}  // namespace unigrpo::ingest
