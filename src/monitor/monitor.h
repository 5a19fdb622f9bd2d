#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "monitor/config.h"
#include "monitor/metrics.h"

namespace unigrpo::monitor {

/// Takes each step's record to metrics.jsonl, TensorBoard, and the terminal.
///
/// metrics.jsonl holds one object a line, {"step": k, "<name>": value, ...}, appended and flushed a
/// step; a value that is not finite is written as null. A resumed run begins with cutting off the rows after
/// `last_row`, so that it leaves no step twice.
class Monitor {
 public:
  struct Options {
    std::filesystem::path run_dir;
    MonitorConfig config;
    int64_t num_steps = 0;
    std::optional<int64_t> last_row = {};  // of a resumed run: the step of the last row that stands, -1 for none
    bool quiet = false;
    std::string log = "log.txt";  // in run_dir
    bool writes = true;           // false: of a rank that owns no run folder; it shows nothing and writes its log alone
  };
  explicit Monitor(const Options& options);
  ~Monitor();
  /// The phase being worked on now ("rollout", "reward", "update", "save", "eval"), for the
  /// progress display.
  void phase(const std::string& name);
  void record(const StepRecord& record);
  /// A line of the log, printed above the progress display and appended to the log's file, which the constructor opens.
  void note(const std::string& line);
  /// Ends the progress display with a closing line. The report is the caller's to write.
  void finish();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Writes report.html from the run folder alone (metrics.jsonl, samples/, eval_*.json,
/// recipe.toml): one self-contained file. Layout of the inputs: docs/FORMATS.md. Throws BadInput
/// where the folder is no run folder.
void write_report(const std::filesystem::path& run_dir);

}  // namespace unigrpo::monitor
