#include "ingest/manifest.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::ingest {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr size_t kMaxManifestBytes = size_t{16} << 30;

std::string header_line(const Manifest& manifest) {
  const json header = {{"stage", manifest.stage},
                       {"version", manifest.version},
                       {"from", manifest.from},
                       {"settings", json::parse(manifest.settings)},
                       {"inputs", manifest.inputs}};
  return header.dump() + "\n";
}

std::string lines_of(const std::vector<json>& rows) {
  std::string lines;
  for (const json& row : rows) lines += row.dump() + "\n";
  return lines;
}

}  // namespace

bool Manifest::same_inputs(const Manifest& other) const { return header_line(*this) == header_line(other); }

std::vector<json> Manifest::kept() const {
  std::vector<json> result;
  for (const json& row : rows) {
    if (!row.contains("dropped")) result.push_back(row);
  }
  return result;
}

std::map<std::string, int64_t> Manifest::dropped_by_reason() const {
  std::map<std::string, int64_t> counts;
  for (const json& row : rows) {
    if (row.contains("dropped")) ++counts[row["dropped"].at("reason").get<std::string>()];
  }
  return counts;
}

fs::path manifest_path(const fs::path& set, const std::string& stage) { return set / (stage + ".jsonl"); }

std::string digest_of(const std::vector<json>& rows) { return sha256_hex(lines_of(rows)); }

void write_manifest(const fs::path& path, const Manifest& manifest) {
  io::write_file_atomic(path, header_line(manifest) + lines_of(manifest.rows));
}

Manifest read_manifest(const fs::path& path) {
  const std::string text = io::read_text_file(path, kMaxManifestBytes);
  Manifest manifest;
  size_t at = 0;
  for (int64_t number = 1; at < text.size(); ++number) {
    const size_t end = std::min(text.find('\n', at), text.size());
    const std::string where = fmt::format("{}:{}", path.string(), number);
    json line = io::parse_json(std::string_view(text).substr(at, end - at), where);
    at = end + 1;
    try {
      if (number == 1) {
        manifest.stage = line.at("stage");
        manifest.version = line.at("version");
        manifest.from = line.at("from");
        manifest.settings = line.at("settings").dump();
        manifest.inputs = line.at("inputs");
        continue;
      }
      line.at("id").get_ref<const std::string&>();
      if (line.contains("dropped")) line["dropped"].at("reason").get_ref<const std::string&>();
    } catch (const json::exception&) {
      throw BadInput("{}: no {} of a manifest", where, number == 1 ? "header" : "row");
    }
    manifest.rows.push_back(std::move(line));
  }
  if (manifest.stage.empty()) throw BadInput("{}:1: no header of a manifest", path.string());
  return manifest;
}

Progress::Progress(fs::path path, const Manifest& header, size_t num_rows)
    : path_(std::move(path)), measured_(num_rows) {
  const std::string first = header_line(header);
  const size_t good_bytes = load(first);
  const int flags = O_WRONLY | O_CREAT | O_CLOEXEC | O_APPEND;
  file_ = ::open(path_.c_str(), flags, 0644);
  if (file_ < 0 || ::ftruncate(file_, static_cast<off_t>(good_bytes)) != 0) {
    throw RuntimeFailure("{}: cannot open for writing: {}", path_.string(), std::strerror(errno));
  }
  if (good_bytes == 0 && ::write(file_, first.data(), first.size()) != static_cast<ssize_t>(first.size())) {
    throw RuntimeFailure("{}: cannot write: {}", path_.string(), std::strerror(errno));
  }
}

Progress::~Progress() { ::close(file_); }

/// Returns how many bytes of the file are whole lines of this stage over this input.
size_t Progress::load(const std::string& header) {
  if (!fs::exists(path_)) return 0;
  const std::string text = io::read_text_file(path_, kMaxManifestBytes);
  if (!text.starts_with(header)) return 0;
  size_t at = header.size();
  for (size_t end = 0; (end = text.find('\n', at)) != std::string::npos; at = end + 1) {
    json line = json::parse(text.begin() + static_cast<std::ptrdiff_t>(at),
                            text.begin() + static_cast<std::ptrdiff_t>(end), nullptr, false);
    if (!line.is_object() || !line.contains("row") || !line["row"].is_number_unsigned() || !line.contains("measured")) {
      break;
    }
    const size_t row = line["row"];
    if (row >= measured_.size()) break;
    measured_[row] = std::move(line["measured"]);
  }
  return at;
}

std::vector<std::optional<json>> Progress::take_measured() { return std::move(measured_); }

void Progress::add(size_t row, const json& measured) {
  const std::string line = json{{"row", row}, {"measured", measured}}.dump() + "\n";
  if (::write(file_, line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    throw RuntimeFailure("{}: cannot write: {}", path_.string(), std::strerror(errno));
  }
}

void Progress::remove() { fs::remove(path_); }

}  // namespace unigrpo::ingest
