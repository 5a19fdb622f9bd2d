#include "media/detect/rhythm.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

namespace unigrpo::media::detect {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr int kDirections = 8;
using Plane = std::vector<double>;

/// Three colour planes: what differs from its ground in colour alone moves, too.
struct Channels {
  std::array<Plane, 3> value;
};

Channels channels_of(const Frames& frames, int64_t k) {
  Channels channels;
  const size_t count = frames.frame_bytes() / 3;
  for (int c = 0; c < 3; ++c) {
    channels.value[c].resize(count);
    for (size_t i = 0; i < count; ++i) channels.value[c][i] = frames.frame(k)[3 * i + c];
  }
  return channels;
}

/// Optical flow between two frames by least squares over 5 x 5 pixels (Lucas and Kanade 1981), all three colours, made
/// precise in rounds around the middle of the two.
class PairFlow {
 public:
  PairFlow(const Channels& first, const Channels& second, int width, int height)
      : first_(first), second_(second), width_(width), height_(height), u_(size()), v_(size()) {
    find_gradients();
    for (int round = 0; round < kRounds; ++round) step();
  }

  /// Adds length times certainty to the directions that the flow of each pixel lies between; a hundredth of all
  /// pixels is 1.
  std::array<double, kDirections> by_direction() const {
    constexpr double kSure = 4000;  // of squared gradients in the window
    std::array<double, kDirections> sums{};
    for (size_t i = 0; i < size(); ++i) {
      const double texture = xx_[i] + yy_[i];
      const double length = std::hypot(u_[i], v_[i]) * texture / (texture + kSure) * 100 / static_cast<double>(size());
      const double place = (std::atan2(v_[i], u_[i]) / (2 * kPi) + 1) * kDirections;
      const auto low = static_cast<size_t>(place);
      const double part = place - static_cast<double>(low);
      sums[low % kDirections] += length * (1 - part);
      sums[(low + 1) % kDirections] += length * part;
    }
    return sums;
  }

 private:
  static constexpr int kRounds = 5, kReach = 2;
  static constexpr double kStiff = 400;  // holds the flow where there is no texture
  static constexpr double kFarthest = 6;

  size_t size() const { return static_cast<size_t>(width_) * height_; }
  size_t at(int x, int y) const { return static_cast<size_t>(y) * width_ + x; }

  Plane boxed(const Plane& plane) const {
    Plane rows(size()), sums(size());
    for (int y = 0; y < height_; ++y) {
      for (int x = 0; x < width_; ++x) {
        for (int d = std::max(-kReach, -x); d <= std::min(kReach, width_ - 1 - x); ++d)
          rows[at(x, y)] += plane[at(x + d, y)];
      }
    }
    for (int y = 0; y < height_; ++y) {
      for (int d = std::max(-kReach, -y); d <= std::min(kReach, height_ - 1 - y); ++d) {
        for (int x = 0; x < width_; ++x) sums[at(x, y)] += rows[at(x, y + d)];
      }
    }
    return sums;
  }

  double sample(const Plane& plane, double x, double y) const {
    x = std::clamp(x, 0.0, width_ - 1.001);
    y = std::clamp(y, 0.0, height_ - 1.001);
    const int left = static_cast<int>(x), top = static_cast<int>(y);
    const double ax = x - left, ay = y - top;
    const size_t i = at(left, top);
    return (1 - ay) * ((1 - ax) * plane[i] + ax * plane[i + 1]) +
           ay * ((1 - ax) * plane[i + width_] + ax * plane[i + width_ + 1]);
  }

  void find_gradients() {
    Plane xx(size()), xy(size()), yy(size());
    for (int c = 0; c < 3; ++c) {
      gx_[c].resize(size());
      gy_[c].resize(size());
      const auto value = [&](int x, int y) { return (first_.value[c][at(x, y)] + second_.value[c][at(x, y)]) / 2; };
      for (int y = 0; y < height_; ++y) {
        for (int x = 0; x < width_; ++x) {
          const int l = std::max(x - 1, 0), r = std::min(x + 1, width_ - 1);
          const int t = std::max(y - 1, 0), b = std::min(y + 1, height_ - 1);
          const double gx = (value(r, y) - value(l, y)) / (r - l), gy = (value(x, b) - value(x, t)) / (b - t);
          gx_[c][at(x, y)] = gx;
          gy_[c][at(x, y)] = gy;
          xx[at(x, y)] += gx * gx;
          xy[at(x, y)] += gx * gy;
          yy[at(x, y)] += gy * gy;
        }
      }
    }
    xx_ = boxed(xx);
    xy_ = boxed(xy);
    yy_ = boxed(yy);
  }

  void step() {
    Plane px(size()), py(size());
    for (int y = 0; y < height_; ++y) {
      for (int x = 0; x < width_; ++x) {
        const size_t i = at(x, y);
        const double hu = u_[i] / 2, hv = v_[i] / 2;
        for (int c = 0; c < 3; ++c) {
          const double change = sample(second_.value[c], x + hu, y + hv) - sample(first_.value[c], x - hu, y - hv);
          px[i] += gx_[c][i] * change;
          py[i] += gy_[c][i] * change;
        }
      }
    }
    px = boxed(px);
    py = boxed(py);
    for (size_t i = 0; i < size(); ++i) {
      const double a = xx_[i] + kStiff, b = xy_[i], c = yy_[i] + kStiff, det = a * c - b * b;
      u_[i] = std::clamp(u_[i] - (c * px[i] - b * py[i]) / det, -kFarthest, kFarthest);
      v_[i] = std::clamp(v_[i] - (a * py[i] - b * px[i]) / det, -kFarthest, kFarthest);
    }
  }

  const Channels &first_, &second_;
  int width_, height_;
  Plane u_, v_, xx_, xy_, yy_;
  std::array<Plane, 3> gx_, gy_;
};

/// Bells of 50 ms (or what frames are apart) around times, as high as the values.
std::vector<double> smeared(const std::vector<double>& values, double first_s, double apart_s, double seconds) {
  constexpr double kWidth_s = 0.05;
  const double width_s = std::max(kWidth_s, 0.8 * apart_s);
  std::vector<double> curve(static_cast<size_t>(std::max(std::lround(seconds / kRhythmHop_s), 0L)));
  for (size_t j = 0; j < values.size(); ++j) {
    const double middle_s = first_s + static_cast<double>(j) * apart_s;
    const auto place = [&](double time_s) {
      return static_cast<size_t>(std::clamp(std::lround(time_s / kRhythmHop_s), 0L, static_cast<long>(curve.size())));
    };
    for (size_t i = place(middle_s - 4 * width_s); i < place(middle_s + 4 * width_s); ++i) {
      const double off = ((static_cast<double>(i) + 0.5) * kRhythmHop_s - middle_s) / width_s;
      curve[i] += values[j] * std::exp(-off * off / 2);
    }
  }
  return curve;
}

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::ranges::nth_element(values, middle);
  return *middle;
}

/// Root mean square every 5 ms, smoothed by a bell of `reach` on either side.
std::vector<double> levels_of(const Sound& sound, int reach) {
  const auto hop = std::max<int64_t>(std::lround(kRhythmHop_s * sound.rate), 1);
  std::vector<double> level(static_cast<size_t>(sound.length() / hop));
  for (size_t k = 0; k < level.size(); ++k) {
    double power = 0;
    for (int64_t i = static_cast<int64_t>(k) * hop; i < static_cast<int64_t>(k + 1) * hop; ++i) {
      double value = 0;
      for (int c = 0; c < sound.channels; ++c) value += sound.channel(c)[i] / double(sound.channels);
      power += value * value / static_cast<double>(hop);
    }
    level[k] = std::sqrt(power);
  }
  std::vector<double> smooth(level.size());
  double total = 0;
  const auto weight = [&](int d) { return 0.5 + 0.5 * std::cos(kPi * d / (reach + 1)); };
  for (int d = -reach; d <= reach; ++d) total += weight(d);
  for (size_t k = 0; k < level.size(); ++k) {
    for (int d = -reach; d <= reach; ++d) {
      const auto j = static_cast<std::ptrdiff_t>(k) + d;
      if (j >= 0 && j < static_cast<std::ptrdiff_t>(level.size())) smooth[k] += weight(d) / total * level[j];
    }
  }
  return smooth;
}

/// Without its mean, and of length 1.
std::vector<double> normal(std::vector<double> curve) {
  double mean = 0, squares = 1e-24;
  for (const double value : curve) mean += value / static_cast<double>(curve.size());
  for (double& value : curve) {
    value -= mean;
    squares += value * value;
  }
  for (double& value : curve) value /= std::sqrt(squares);
  return curve;
}

}  // namespace

SeenRhythm see_rhythm(const Frames& frames, Rational fps) {
  SeenRhythm rhythm;
  const double frame_s = 1 / fps.value(), seconds = static_cast<double>(frames.count) * frame_s;
  std::vector<double> moving, turning;
  std::array<double, kDirections> last{};
  Channels first;
  for (int64_t k = 0; k < frames.count && std::min(frames.width, frames.height) >= 2; ++k) {
    Channels second = channels_of(frames, k);
    if (k > 0) {
      const auto flow = PairFlow(first, second, frames.width, frames.height).by_direction();
      double sum = 0, change = 0;
      for (int d = 0; d < kDirections; ++d) {
        sum += flow[d];
        change += std::abs(flow[d] - last[d]);
      }
      moving.push_back(sum);
      if (k > 1) turning.push_back(change);
      last = flow;
    }
    first = std::move(second);
  }
  if (turning.empty()) return rhythm;
  constexpr double kStill = 0.2, kStillShare = 0.1;  // of the largest motion; of the pairs
  constexpr double kEvent = 0.3;                     // of the largest motion: less is unsteadiness
  constexpr double kMotion = 0.2;                    // that there must be: 0.2% of the pixels by one
  const double most = *std::ranges::max_element(moving);
  const auto num_still = std::ranges::count_if(moving, [&](double value) { return value < kStill * most; });
  rhythm.pulsed = static_cast<double>(num_still) >= kStillShare * static_cast<double>(moving.size());
  rhythm.eventful = most > kMotion && *std::ranges::max_element(turning) > kEvent * most;
  if (rhythm.pulsed) {
    rhythm.curve = smeared(moving, 0.5 * frame_s, frame_s, seconds);
  } else {
    const double usual = median_of(turning);
    constexpr double kEven = 0.6;  // what is small or of little contrast counts as well
    for (double& value : turning) value = std::pow(std::max(value - usual, 0.0), kEven);
    rhythm.curve = smeared(turning, frame_s, frame_s, seconds);
  }
  return rhythm;
}

HeardRhythm hear_rhythm(const Sound& sound) {
  HeardRhythm rhythm;
  if (sound.rate <= 0 || sound.length() == 0) return rhythm;
  constexpr int kFine = 3, kCoarse = 6;
  const std::vector<double> fine = levels_of(sound, kFine), coarse = levels_of(sound, kCoarse);
  // What sounds from the clip's first moment on does not begin there.
  constexpr size_t kEdge = 6;
  constexpr double kLoudness = 0.7;  // of the level: soft sounds count as well
  rhythm.strikes.resize(fine.size());
  rhythm.swells.resize(fine.size());
  for (size_t k = kEdge; k < fine.size(); ++k) {
    rhythm.strikes[k] = std::max(std::pow(fine[k], kLoudness) - std::pow(fine[k - 1], kLoudness), 0.0);
    rhythm.swells[k] = std::abs(coarse[k] - coarse[k - 1]);
  }
  constexpr size_t kRise = 10;                      // 50 ms
  constexpr double kRises = 0.3, kLeast = 0.00316;  // of the loudest; -50 dBFS
  const double loudest = coarse.empty() ? 0 : *std::ranges::max_element(coarse);
  for (size_t k = kEdge; k + kRise < coarse.size(); ++k) {
    rhythm.eventful |= loudest > kLeast && coarse[k + kRise] - coarse[k] > kRises * loudest;
  }
  return rhythm;
}

RhythmLag compare_rhythms(const SeenRhythm& seen, const HeardRhythm& heard) {
  constexpr double kFarthest_s = 1, kApart_s = 0.1;
  RhythmLag lag;
  const std::vector<double> a = normal(seen.curve), b = normal(seen.pulsed ? heard.swells : heard.strikes);
  if (a.empty() || b.empty()) return lag;
  const auto reach = static_cast<std::ptrdiff_t>(kFarthest_s / kRhythmHop_s);
  std::vector<double> similar;
  for (std::ptrdiff_t shift = -reach; shift <= reach; ++shift) {
    double sum = 0;
    const auto first = std::max<std::ptrdiff_t>(0, -shift);
    const auto last = std::min(static_cast<std::ptrdiff_t>(a.size()), static_cast<std::ptrdiff_t>(b.size()) - shift);
    for (std::ptrdiff_t i = first; i < last; ++i) sum += a[i] * b[i + shift];
    similar.push_back(sum);
  }
  const auto top = std::ranges::max_element(similar) - similar.begin();
  lag.peak = similar[top];
  lag.second = -1;
  const auto apart = static_cast<std::ptrdiff_t>(kApart_s / kRhythmHop_s);
  for (std::ptrdiff_t i = 0; i < static_cast<std::ptrdiff_t>(similar.size()); ++i) {
    if (std::abs(i - top) > apart) lag.second = std::max(lag.second, similar[i]);
  }
  lag.heard_after_s = static_cast<double>(top - reach) * kRhythmHop_s;
  return lag;
}

}  // namespace unigrpo::media::detect
