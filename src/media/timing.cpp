#include "media/timing.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

namespace unigrpo::media {

double nominal_frame_s(std::span<const double> times) {
  std::vector<double> distances;
  for (size_t k = 1; k < times.size(); ++k) {
    if (times[k] > times[k - 1]) distances.push_back(times[k] - times[k - 1]);
  }
  if (distances.empty()) return 0;
  auto middle = distances.begin() + static_cast<std::ptrdiff_t>((distances.size() - 1) / 2);
  std::ranges::nth_element(distances, middle);
  return *middle;
}

bool has_rate(std::span<const double> times, Rational fps, double tolerance) {
  if (fps.num <= 0 || fps.den <= 0) return false;
  for (size_t k = 0; k < times.size(); ++k) {
    const double expected =
        times[0] + static_cast<double>(k) * static_cast<double>(fps.den) / static_cast<double>(fps.num);
    if (std::abs(times[k] - expected) > tolerance) return false;
  }
  return true;
}

Rational nearest_rate(double fps) {
  constexpr double kClose = 1e-3;
  const double whole = std::round(fps);
  const double by_1001 = std::round(fps * 1.001);
  const double off_whole = whole >= 1 ? std::abs(fps / whole - 1) : 1;
  const double off_1001 = by_1001 >= 1 ? std::abs(fps * 1.001 / by_1001 - 1) : 1;
  if (std::min(off_whole, off_1001) <= kClose) {
    if (off_whole <= off_1001) return {static_cast<int64_t>(whole), 1};
    return {static_cast<int64_t>(by_1001) * 1000, 1001};
  }
  constexpr int64_t kDenominator = 1000;
  const auto num = std::max<int64_t>(std::llround(fps * kDenominator), 1);
  const int64_t common = std::gcd(num, kDenominator);
  return {num / common, kDenominator / common};
}

int64_t num_grid_frames(double seconds, Rational fps, double tolerance) {
  return std::max<int64_t>(static_cast<int64_t>(std::ceil((seconds - tolerance) * fps.value() - 1e-6)), 1);
}

}  // namespace unigrpo::media
