#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "base/signals.h"

/// From a folder of media files to a set that clips are trained on, in stages with a manifest each (docs/DATA.md).
namespace unigrpo::ingest {

struct Options {
  std::filesystem::path in;               // folder of media files, at any depth
  std::filesystem::path out;              // the set: a manifest a stage, and log.jsonl
  std::vector<std::string> stages;        // empty: all
  int workers = 1;                        // files that are read at once
  bool keep_mute = false;                 // what has no sound or a silent one is kept for its pictures
  std::filesystem::path curriculum = {};  // JSON of a curriculum's stages; empty: the default one
  StopToken stop = {};
};

/// One stage. A row is a JSON object of a file or clip; a stage adds a member of its name to it, or `dropped`.
class Stage {
 public:
  virtual ~Stage() = default;
  virtual const char* name() const = 0;
  /// Counts up whenever the stage gives other rows for the same input.
  virtual int version() const { return 1; }
  /// What its rows depend on beside the rows before it.
  virtual nlohmann::json settings() const;
  /// What one row says, by its file; called from several threads. Throws BadInput where the file cannot be read.
  virtual nlohmann::json measure(const nlohmann::json& row) const;
  /// All rows with what was measured of each: the stage's own, in the same order. The default adds it to each row.
  virtual std::vector<nlohmann::json> collect(std::vector<nlohmann::json> rows,
                                              std::vector<nlohmann::json> measured) const;
};

/// What drops a row: a reason that is counted, and what was found.
nlohmann::json dropped(const std::string& reason, const std::string& detail);
/// Puts `dropped` or the stage's measurement into a row.
void add_measured(nlohmann::json& row, const char* stage, nlohmann::json measured);

std::unique_ptr<Stage> make_probe(const Options& options);
std::unique_ptr<Stage> make_shots(const Options& options);
std::unique_ptr<Stage> make_filter(const Options& options);
std::unique_ptr<Stage> make_dedup(const Options& options);
std::unique_ptr<Stage> make_sync(const Options& options);
std::unique_ptr<Stage> make_caption(const Options& options);
std::unique_ptr<Stage> make_curriculum(const Options& options);

}  // namespace unigrpo::ingest
