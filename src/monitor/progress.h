#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "monitor/metrics.h"

namespace unigrpo::monitor {

/// What the user watches while a run goes on.
///
/// On a terminal: one live line, redrawn in place, of at most width - 1 columns (what matters least
/// is left out first):
///   step 37/200  ----------            reward 0.512 .:-=+  geneval 0.4 ocr 0.9  update  41 images/s  3 min 05 s left
/// Elsewhere: one plain line a step, without control characters.
class Progress {
 public:
  struct Options {
    int64_t num_steps = 0;
    bool live = false;
    bool unicode = false;                         // block characters in the bar and the sparkline
    bool colour = false;                          // live only
    std::function<int()> width;                   // columns now; 0 or less where unknown
    std::function<double()> now;                  // seconds on a steady clock
    std::function<void(std::string_view)> write;  // bytes out
  };
  explicit Progress(Options options);

  void phase(const std::string& name);
  void record(const StepRecord& record);
  void clear();  // takes the live line away, to print something else
  void redraw();
  void finish();  // the live line gives way to one closing line

 private:
  std::string live_line() const;
  std::string plain_line(const StepRecord& record) const;
  std::optional<double> seconds_left() const;

  Options options_;
  std::string phase_;
  int64_t steps_done_ = 0;  // the last recorded step
  int64_t num_recorded_ = 0;
  double started_;
  double last_record_;
  std::optional<double> seconds_per_step_;  // running mean that forgets
  std::string headline_;                    // name of the metric shown; empty before the first record
  std::optional<double> first_value_;
  std::deque<double> recent_;             // of the headline metric, oldest first
  std::optional<double> headline_value_;  // of the last record, which may lack it
  std::vector<std::pair<std::string, double>>
      terms_,  // of the last record: up to three rewards, where there are several
      tasks_;  // and mean rewards by task, where there are several
  std::optional<double> images_per_s_;
  std::optional<double> tokens_per_s_;
  std::string ranks_;  // what the last record says of them; empty: one process
  bool shown_ = false;
  bool finished_ = false;
};

/// Options for this process' stdout: live on a terminal (unless TERM is "dumb"), colours unless
/// NO_COLOR is set, block characters under a UTF-8 locale.
Progress::Options stdout_progress(int64_t num_steps);

}  // namespace unigrpo::monitor
