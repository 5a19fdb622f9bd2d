#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace unigrpo::monitor {

/// "step_000020": sorts by step up to 999,999, and is read back by parse_step_name().
std::string step_name(int64_t step);
/// The step of "step_000020"; -1 for any other name.
int64_t parse_step_name(const std::string& name);

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
  ~RunFolder();
  RunFolder(RunFolder&& other) noexcept;
  RunFolder& operator=(RunFolder&& other) noexcept;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path recipe_file() const { return path_ / "recipe.toml"; }
  std::filesystem::path log_file() const { return path_ / "log.txt"; }
  std::filesystem::path metrics_file() const { return path_ / "metrics.jsonl"; }
  std::filesystem::path tensorboard() const { return path_ / "tensorboard"; }
  std::filesystem::path report_file() const { return path_ / "report.html"; }
  std::filesystem::path samples(int64_t step) const { return path_ / "samples" / step_name(step); }
  std::filesystem::path samples(const std::string& name) const {
    return path_ / "samples" / name;
  }  // "before", "after"
  /// eval_before.json, eval_after.json, eval_before_guided.json, eval_after_guided.json.
  std::filesystem::path eval_file(const std::string& name) const { return path_ / ("eval_" + name + ".json"); }
  std::filesystem::path checkpoints() const { return path_ / "checkpoints"; }
  std::filesystem::path checkpoint(int64_t step) const { return checkpoints() / step_name(step); }
  std::filesystem::path final_model() const { return path_ / "final"; }
  std::filesystem::path best_model() const { return path_ / "best"; }
  std::filesystem::path failures_file(int64_t step) const { return path_ / "failures" / (step_name(step) + ".jsonl"); }

 private:
  RunFolder() = default;
  std::filesystem::path path_;
  int lock_ = -1;  // open file `.lock`, held with flock: gone with the process, however it ends
};

}  // namespace unigrpo::monitor
