#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>

#include "io/folder_lock.h"
#include "io/step_folder.h"

namespace unigrpo::monitor {

/// The folder of one run, made or found, and held: no second process can open it while this object
/// lives.
///
/// Names of what is in it (docs/FORMATS.md); the folders are made by whoever writes in them.
class RunFolder {
 public:
  /// resume = false: `path` must be missing or empty. resume = true: missing, empty, or a run
  /// folder. What a killed process was writing (".<name>.tmp-<id>") is removed. Throws BadInput naming the path: not
  /// empty, not a folder, no run folder, its parent unwritable, or in use by another process. On an error nothing that
  /// was made here is left.
  static RunFolder open(const std::filesystem::path& path, bool resume);
  /// The folder that another rank of the run has opened: its names, nothing made and nothing held.
  static RunFolder of_another_rank(const std::filesystem::path& path) { return RunFolder(path, std::nullopt); }

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path recipe_file() const { return path_ / "recipe.toml"; }
  std::filesystem::path record_file() const { return path_ / "run.json"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path samples(int64_t step) const { return path_ / "samples" / io::step_name(step); }
  std::filesystem::path samples(const std::string& name) const {
    return path_ / "samples" / name;
  }  // "before", "after"
  /// eval_before.json, eval_after.json, eval_before_guided.json, eval_after_guided.json.
  std::filesystem::path eval_file(const std::string& name) const { return path_ / ("eval_" + name + ".json"); }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path checkpoint(int64_t step) const { return checkpoints() / io::step_name(step); }
  std::filesystem::path best_model() const { return path_ / "best"; }
  std::filesystem::path failures_file(int64_t step) const {
    return path_ / "failures" / (io::step_name(step) + ".jsonl");
  }

 private:
  RunFolder(std::filesystem::path path, std::optional<io::FolderLock> lock)
      : path_(std::move(path)), lock_(std::move(lock)) {}

  std::filesystem::path path_;
  std::optional<io::FolderLock> lock_;
};

}  // namespace unigrpo::monitor
