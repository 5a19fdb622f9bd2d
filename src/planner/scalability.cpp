#include "planner/scalability.h"

#include <algorithm>
#include <cmath>
#include <iterator>

namespace unigrpo::planner {
namespace {

using Point = std::map<int64_t, double>::const_iterator;

double between(Point a, Point b, int64_t ranks) {
  const auto inverse = [](int64_t n) { return 1 / static_cast<double>(n); };
  const double alpha = (a->second - b->second) / (inverse(a->first) - inverse(b->first));
  return b->second + alpha * (inverse(ranks) - inverse(b->first));
}

}  // namespace

std::optional<double> Scalability::at(int64_t ranks) const {
  const auto above = profiled_.lower_bound(ranks);
  if (above == profiled_.end()) return std::nullopt;
  if (above->first == ranks) return above->second;
  if (above == profiled_.begin()) return std::nullopt;
  return between(std::prev(above), above, ranks);
}

std::optional<Scalability::HeldOut> Scalability::worst_held_out() const {
  if (profiled_.size() < 3) return std::nullopt;
  HeldOut worst;
  for (auto point = std::next(profiled_.begin()); std::next(point) != profiled_.end(); ++point) {
    const double error = std::abs(between(std::prev(point), std::next(point), point->first) / point->second - 1);
    if (error >= worst.error) worst = {point->first, error};
  }
  return worst;
}

std::map<int64_t, double> all_times(const std::map<int64_t, double>& profiled, int64_t batch, int64_t multiple,
                                    int64_t ranks) {
  std::map<int64_t, double> out = profiled;
  const Scalability scalability(profiled);
  for (int64_t n = multiple; n <= std::min(batch, ranks); n += multiple) {
    if (batch % n != 0) continue;
    if (const auto ms = scalability.at(n)) out[n] = *ms;
  }
  return out;
}

}  // namespace unigrpo::planner
