#include "planner/waves.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/text.h"
#include "planner/numbers.h"
#include "planner/wave_search.h"

namespace unigrpo::planner {
namespace {

constexpr int64_t kExactSteps = 20'000'000;

/// Sum over levels of their continuous optimum.
double level_ideal(const std::vector<MetaOp>& ops, int64_t ranks) {
  std::vector<int64_t> level(ops.size(), 0);
  int64_t deepest = 0;
  for (const size_t m : order_of(ops)) {
    for (const size_t dep : ops[m].deps) level[m] = std::max(level[m], level[dep] + 1);
    deepest = std::max(deepest, level[m]);
  }
  double sum = 0;
  for (int64_t at = 0; at <= deepest; ++at) {
    std::vector<MetaOp> part;
    for (size_t m = 0; m < ops.size(); ++m) {
      if (level[m] == at) part.push_back(ops[m]);
    }
    sum += continuous_optimum(part, ranks).ideal_ms;
  }
  return sum;
}

}  // namespace

Speed::Speed(const std::map<int64_t, double>& ms) {
  points_.push_back({0, 0});
  for (const auto& [ranks, time] : ms) {
    const Point point{ranks, 1 / time};
    if (point.speed <= points_.back().speed) continue;
    // A point below the line from its neighbour on the left to the new one would make the speed convex.
    while (points_.size() > 1) {
      const Point &a = points_[points_.size() - 2], &b = points_.back();
      const double line = a.speed + (point.speed - a.speed) * real(b.ranks - a.ranks) / real(point.ranks - a.ranks);
      if (b.speed >= line * (1 - 1e-12)) break;
      points_.pop_back();
    }
    points_.push_back(point);
  }
}

double Speed::ranks_for(double wanted) const {
  for (size_t i = 1; i < points_.size(); ++i) {
    const Point &a = points_[i - 1], &b = points_[i];
    if (wanted <= b.speed * (1 + 1e-12)) {
      return real(a.ranks) + std::min(1.0, (wanted - a.speed) / (b.speed - a.speed)) * real(b.ranks - a.ranks);
    }
  }
  return 1e12;
}

Continuous continuous_optimum(const std::vector<MetaOp>& ops, int64_t ranks) {
  Continuous out;
  std::vector<Speed> speeds;
  for (const MetaOp& op : ops) {
    std::map<int64_t, double> usable;
    for (const auto& [n, ms] : op.ms) {
      if (n >= 1 && n <= ranks) usable[n] = ms;
    }
    if (usable.empty()) throw BadInput("{} runs on no number of ranks up to {}", in_quotes(op.name), ranks);
    speeds.emplace_back(usable);
    out.ideal_ms = std::max(out.ideal_ms, real(op.layers) / speeds.back().fastest());
  }
  const auto needed = [&](double c) {
    double sum = 0;
    for (size_t m = 0; m < ops.size(); ++m) sum += speeds[m].ranks_for(real(ops[m].layers) / c);
    return sum;
  };
  if (needed(out.ideal_ms) > real(ranks)) {
    double low = out.ideal_ms, high = low * 2;
    while (needed(high) > real(ranks)) high *= 2;
    for (int round = 0; round < 80; ++round) {
      const double middle = (low + high) / 2;
      (needed(middle) > real(ranks) ? low : high) = middle;
    }
    out.ideal_ms = high;
  }
  for (size_t m = 0; m < ops.size(); ++m) out.ranks.push_back(speeds[m].ranks_for(real(ops[m].layers) / out.ideal_ms));
  return out;
}

double wave_ms(const std::vector<MetaOp>& ops, const Wave& wave) {
  double longest = 0;
  for (const WavePiece& piece : wave)
    longest = std::max(longest, real(piece.layers) * ops[piece.op].ms.at(piece.ranks));
  return longest;
}

WaveSchedule schedule_waves(const std::vector<MetaOp>& ops, int64_t ranks) {
  for (const MetaOp& op : ops) {
    if (op.layers < 1) throw BadInput("{} must have at least 1 layer, got {}", in_quotes(op.name), op.layers);
    for (const auto& [n, ms] : op.ms) {
      if (!(ms > 0) || !std::isfinite(ms)) {
        throw BadInput("{}: time on {} ranks must be above 0", in_quotes(op.name), n);
      }
    }
  }
  const WaveShape shape(ops, ranks);
  WaveSchedule out;
  RemainingLayers all;
  for (const MetaOp& op : ops) all.push_back(op.layers);
  out.lower_bound = std::max(rest_bound(shape, all), allotment_bound(shape));
  out.level_ideal = level_ideal(ops, ranks);
  if (auto exact = exact_waves(shape, kExactSteps)) {
    out.waves = std::move(*exact);
    merge_repeats(out.waves);
  } else {
    const double size = real(ranks) * real(std::ssize(ops));  // of one knapsack
    const size_t width = size > 1000 ? 4 : size > 300 ? 16 : 40;
    double least = std::numeric_limits<double>::infinity();
    // Small graphs have the time for a second beam, of other lengths and draws.
    for (const BeamEffort& effort : {BeamEffort{width, size > 20000 ? 1 : 2, size > 1000 ? size_t{10} : size_t{14}},
                                     BeamEffort{width, 4, size_t{8}}}) {
      std::vector<Wave> waves = beam_waves(shape, effort);
      improve_waves(shape, waves);
      if (const double ms = total_ms(ops, waves); ms < least) least = ms, out.waves = std::move(waves);
      if (size > 1000) break;
    }
  }
  out.milliseconds = total_ms(ops, out.waves);
  return out;
}

}  // namespace unigrpo::planner
