#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "data/sample.h"
#include "monitor/config.h"

namespace unigrpo::monitor {

/// What the probes of a run are, so that they cost no more than they may.
struct ProbePlan {
  int64_t prompts = 0, samples = 0;  // of a probe: so many prompts, so many samples of each
  int64_t period = 1;                // steps between probes
  bool stretched = false;            // the period is longer than asked for

  /// Whether the step of this index (from 0) begins with a probe. The first one shows the starting policy, whatever it
  /// costs; where the share binds, the second comes after two periods, which pay for both.
  bool is_due(int64_t step_index) const { return step_index % period == 0 && (!stretched || step_index != period); }
  /// Samples spread over the steps.
  double samples_a_step() const { return static_cast<double>(prompts * samples) / static_cast<double>(period); }
};

/// The plan for steps of `rollouts` samples: as the config asks, with no more samples in a probe than a step has (but
/// of four prompts at least: fewer have no spread to speak of), and so rarely that the share of max_share is kept.
ProbePlan plan_probes(const DriftConfig& config, int64_t rollouts);
/// "12 x 2 every 2 steps (8.3% of the samples)", or "off".
std::string describe(const DriftConfig& config, int64_t rollouts);

/// A statistic that has left what the starting policy made for good.
struct DriftAlarm {
  std::string statistic;
  int64_t step = 0;
  double reference = 0;  // mean over the watched prompts at the start
  double value = 0;      // now
  double shift = 0;      // (value - reference) in standard deviations between the prompts
};

/// One line for people: "alarm at step 12: edge_density has risen from 0.081 to 0.24 (+3.2 standard deviations ...)".
std::string describe(const DriftAlarm& alarm);

/// Watches what a few prompts' samples look like, with no reward asked: a policy that games its reward mostly shows it
/// there. The samples are drawn with the same noise at every probe, so that what differs between two probes is the
/// policy's doing. Each statistic of data/sample_statistics.h is taken a group (a prompt's samples: mean over its
/// samples, or its diversity; of a sample all texts and the last image count). The first probe, of the starting policy,
/// gives the values r_p and their standard deviation s between prompts, s not below a resolution of the statistic's own
/// (of a length, half its mean as well). From then on a two-sided CUSUM (Page, Biometrika 41, 1954) runs on the mean
/// over prompts of the paired difference,
///
///   u = mean_p(x_p - r_p) / s,   high = max(0, high + u - allowance),   low = max(0, low - u - allowance),
///
/// and the first sum above `threshold` raises the statistic's only alarm. `allowance` is how far a policy may drift for
/// ever: an honest one does, and four times as far in the diversity of its answers, since what learns becomes certain.
/// Pairing takes the spread between prompts out of u's noise, and s still makes u a size that means the same for every
/// statistic.
class DriftMonitor {
 public:
  explicit DriftMonitor(const DriftConfig& config);

  struct Observation {
    /// drift/<statistic>: the mean over prompts; drift_shift/<statistic>: u, after the first probe;
    /// drift_raised/<statistic>: +1 where the alarm is raised by this probe, by a rise, -1 by a fall.
    std::map<std::string, double> metrics;
    std::vector<DriftAlarm> raised;
  };

  /// The watched statistics of whole groups, by statistic and group.
  using Measured = std::map<std::string, std::map<int64_t, double>>;
  Measured measure(std::span<const data::Sample> samples) const;

  /// Takes one probe before step `step`, in order: the same groups each time. A statistic that no sample has (texts
  /// without images, groups of one) is left out, and a group that lacks it now or had not at first is in no mean.
  Observation observe(int64_t step, const Measured& measured);
  Observation observe(int64_t step, std::span<const data::Sample> samples) { return observe(step, measure(samples)); }

  /// All that observe() remembers, exactly: one entry a statistic, "drift/<statistic>" -> numbers.
  std::map<std::string, std::string> state() const;
  /// The inverse; other keys are passed over, a statistic without an entry (one that a resumed run newly watches)
  /// starts with its first probe. Throws BadInput naming `where` and the key for anything else.
  void restore(const std::map<std::string, std::string>& state, const std::string& where);

 private:
  struct Track {
    std::map<int64_t, double> reference;  // of the first probe, by group
    double high = 0;
    double low = 0;
    bool raised = false;
  };

  DriftConfig config_;
  std::map<std::string, Track> tracks_;  // by statistic
};

}  // namespace unigrpo::monitor
