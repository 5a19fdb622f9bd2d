#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

namespace unigrpo {

/// Whether two sums differ by no more than their rounding; `magnitude`: of the largest of what was added up.
inline bool alike(double a, double b, double magnitude) { return std::abs(a - b) <= 1e-12 * magnitude; }

/// Mean and standard deviation of finite numbers. Both are taken from the first one, so that numbers that are equal
/// have exactly that mean and exactly no deviation.
struct Spread {
  int64_t count = 0;
  double mean = 0, std = 0, low = 0, high = 0;
};

/// `ddof`: taken off the divisor of the variance; std is 0 where nothing is left of it.
inline Spread spread_of(std::span<const double> values, int64_t ddof = 0) {
  Spread out;
  out.count = static_cast<int64_t>(values.size());
  if (values.empty()) return out;
  const double first = values.front(), count = static_cast<double>(values.size());
  out.low = out.high = first;
  double sum = 0, squares = 0;
  for (const double value : values) {
    out.low = std::min(out.low, value);
    out.high = std::max(out.high, value);
    sum += (value - first) / count;
  }
  out.mean = first + sum;
  for (const double value : values) squares += (value - out.mean) * (value - out.mean);
  const int64_t divisor = out.count - ddof;
  out.std = divisor > 0 ? std::sqrt(squares / static_cast<double>(divisor)) : 0;
  return out;
}

}  // namespace unigrpo
