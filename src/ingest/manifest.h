#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::ingest {

/// A stage's manifest: JSONL, a header {"stage", "version", "from", "settings", "inputs"} and a row a line. The same
/// input gives the same bytes.
struct Manifest {
  std::string stage;
  int version = 0;
  std::string from;      // the stage whose rows it was made of; empty: of files
  std::string settings;  // JSON
  std::string inputs;    // SHA-256 of those rows
  std::vector<nlohmann::json> rows;

  /// Whether it says the same of what its rows were made from.
  bool same_inputs(const Manifest& other) const;

  /// Those that were not dropped.
  std::vector<nlohmann::json> kept() const;
  std::map<std::string, int64_t> dropped_by_reason() const;
};

std::filesystem::path manifest_path(const std::filesystem::path& set, const std::string& stage);
/// SHA-256 of the rows that a stage hands on, as they are written.
std::string digest_of(const std::vector<nlohmann::json>& rows);

void write_manifest(const std::filesystem::path& path, const Manifest& manifest);
/// Throws BadInput naming file and line.
Manifest read_manifest(const std::filesystem::path& path);

/// What was measured in a stage so far, a row a line as it comes, beside its manifest: what a killed run leaves for the
/// next one.
class Progress {
 public:
  /// Takes over what a run with the same header has left, but for a line that was torn; begins anew else.
  Progress(std::filesystem::path path, const Manifest& header, size_t num_rows);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// By row; empty: not measured yet.
  std::vector<std::optional<nlohmann::json>> take_measured();
  /// Reaches the kernel before it returns. Throws RuntimeFailure.
  void add(size_t row, const nlohmann::json& measured);
  /// After the manifest was written.
  void remove();

 private:
  size_t load(const std::string& header);
  std::filesystem::path path_;
  int file_ = -1;
  std::vector<std::optional<nlohmann::json>> measured_;
};

}  // namespace unigrpo::ingest
