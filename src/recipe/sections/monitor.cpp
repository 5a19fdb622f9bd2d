#include <algorithm>

#include "base/text.h"
#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using monitor::DriftConfig, monitor::MonitorConfig;

const std::string kOneStatistic =
    "one of " +
    join(std::vector<std::string>(monitor::kDriftStatistics.begin(), monitor::kDriftStatistics.end()), ", ");
const TextRule kStatistic = {
    [](std::string_view text) { return std::ranges::count(monitor::kDriftStatistics, text) > 0; }, kOneStatistic,
    "statistics of docs/METRICS.md"};

Section monitor_section() {
  return Builder("monitor", "what is shown and measured on the way",
                 [](Recipe& r, size_t) -> auto& { return r.monitor; })
      .row("sample_every", &MonitorConfig::sample_every, "steps between sample grids; 0: never", between(0, kMany))
      .row("num_samples", &MonitorConfig::num_samples, "samples a grid", between(1, 4096))
      .row("tensorboard", &MonitorConfig::tensorboard, "write event files")
      .row("report", &MonitorConfig::report, "write report.html at the end");
}

Section monitor_drift_section() {
  return Builder("monitor.drift",
                 "statistics of a few prompts' samples that leave what the starting policy made of them",
                 [](Recipe& r, size_t) -> auto& { return r.monitor.drift; })
      .row("enabled", &DriftConfig::enabled, "measure and watch them")
      .row("action", &DriftConfig::action, "what an alarm does besides being told")
      .row("statistics", &DriftConfig::statistics, "which; empty: all", list_or_empty(kStatistic))
      .row("prompts", &DriftConfig::prompts, "watched, evenly spread over the prompt file", between(1, kMany))
      .row("samples", &DriftConfig::samples, "of each; diversity needs two", between(1, kSome))
      .row("every", &DriftConfig::every, "steps between probes at least", between(1, kMany))
      .row("max_share", &DriftConfig::max_share,
           "of the rollouts' samples that probes may add; where they would add more they get smaller and rarer",
           {.min = 1e-4, .max = 1000})
      .row("allowance", &DriftConfig::allowance,
           "standard deviations (between the prompts, at the start) that a statistic may drift",
           up_to(kMany, at_least(0)))
      .row("threshold", &DriftConfig::threshold,
           "sum over the probes of what lies beyond the allowance that raises the alarm", up_to(kMany, above(0)));
}

}  // namespace

std::vector<Section> monitor_sections() { return {monitor_section(), monitor_drift_section()}; }

}  // namespace unigrpo::recipe
