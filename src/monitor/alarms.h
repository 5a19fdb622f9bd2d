#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/sample.h"
#include "monitor/config.h"

namespace unigrpo::monitor {

/// A statistic that has left what the starting policy made for good.
struct Alarm {
  std::string statistic;
  int64_t step = 0;
  double reference = 0;  // mean over the reference steps
  double value = 0;      // mean of this step
  double shift = 0;      // (value - reference) in the reference's standard deviations
};

/// One line for people: "alarm at step 12: edge_density has risen from 0.081 to 0.24 (+3.2 standard deviations ...)".
std::string describe(const Alarm& alarm);

/// Watches what the samples look like, with no reward asked: a policy that games its reward mostly shows it there. Each
/// statistic of data/sample_statistics.h is taken a group (a prompt's samples: mean over its samples, or its diversity; of a
/// sample all texts and the last image count). The groups of the first `reference_steps` steps give mean m and standard
/// deviation s between groups, s not below a resolution of the statistic's own. From then on a two-sided CUSUM (Page,
/// Biometrika 41, 1954) runs on the step's mean x over its groups,
///
///   u = (x - m) / s,   high = max(0, high + u - allowance),   low = max(0, low - u - allowance),
///
/// and the first sum above `threshold` raises the statistic's only alarm. `allowance` is how far a policy may drift for ever: an
/// honest one does. Measured in deviations between groups, u means the same at any batch size; its noise is
/// 1 / sqrt(groups a step).
class Alarms {
 public:
  explicit Alarms(const AlarmsConfig& config);

  struct Observation {
    /// alarm/<statistic>: the step's mean; alarm_shift/<statistic>: u, once there is a reference; alarm_raised/<statistic>: +1
    /// where the alarm is raised in this step by a rise, -1 by a fall.
    std::map<std::string, double> metrics;
    std::vector<Alarm> raised;
  };

  /// Takes one finished step, in order. A statistic that no sample has (texts without images, groups of one) is left out.
  Observation observe(int64_t step, std::span<const data::Sample> samples);

  /// All that observe() remembers, exactly: one entry a statistic, "alarm/<statistic>" -> numbers.
  std::map<std::string, std::string> state() const;
  /// The inverse; other keys are passed over, a statistic without an entry (one that a resumed run newly watches) starts with
  /// its reference. Throws BadInput naming `where` and the key for anything else.
  void restore(const std::map<std::string, std::string>& state, const std::string& where);

 private:
  struct Track {
    int64_t steps = 0;   // reference steps taken
    int64_t groups = 0;  // in them
    double mean = 0;
    double square = 0;  // sum of squared differences from the mean
    double high = 0;
    double low = 0;
    bool raised = false;
  };
  void add_reference(Track& track, std::span<const double> groups) const;
  double shift_of(const std::string& statistic, const Track& track, double value) const;

  AlarmsConfig config_;
  std::map<std::string, Track> tracks_;  // by statistic
};

}  // namespace unigrpo::monitor
