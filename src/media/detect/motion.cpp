#include "media/detect/motion.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

namespace unigrpo::media::detect {
namespace {

constexpr double kColored = 60;  // least difference of the largest and smallest channel

double saturation(const uint8_t* pixel) {
  return std::max({pixel[0], pixel[1], pixel[2]}) - std::min({pixel[0], pixel[1], pixel[2]});
}
double luma(const uint8_t* pixel) { return 0.299 * pixel[0] + 0.587 * pixel[1] + 0.114 * pixel[2]; }

struct Line {
  double at_0 = 0, slope = 0, squares = 0;
  double at(double t) const { return at_0 + slope * t; }
};

/// Least squares over the frames first..last.
Line fit_line(const Track& track, size_t first, size_t last, double frame_s) {
  double n = 0, st = 0, sy = 0, stt = 0, sty = 0;
  for (size_t k = first; k <= last; ++k) {
    const double t = static_cast<double>(k) * frame_s, y = track.places[k].y;
    n += 1;
    st += t;
    sy += y;
    stt += t * t;
    sty += t * y;
  }
  Line line;
  line.slope = (n * sty - st * sy) / (n * stt - st * st);
  line.at_0 = (sy - line.slope * st) / n;
  for (size_t k = first; k <= last; ++k) {
    line.squares += std::pow(track.places[k].y - line.at(static_cast<double>(k) * frame_s), 2);
  }
  return line;
}

/// Of the parabola through three equidistant values, the place of its top in -0.5..0.5 around the middle one.
double parabola_top(double before, double middle, double after) {
  const double bend = before - 2 * middle + after;
  return bend >= 0 ? 0 : std::clamp(0.5 * (before - after) / bend, -0.5, 0.5);
}

/// Bilinear brightness; nothing outside.
std::optional<double> sample(const std::vector<double>& image, int width, int height, double x, double y) {
  const double fx = std::floor(x), fy = std::floor(y);
  if (fx < 0 || fy < 0 || fx + 1 >= width || fy + 1 >= height) return std::nullopt;
  const auto at = [&](int dx, int dy) {
    return image[static_cast<size_t>((static_cast<int>(fy) + dy) * width + static_cast<int>(fx) + dx)];
  };
  const double ax = x - fx, ay = y - fy;
  return (1 - ay) * ((1 - ax) * at(0, 0) + ax * at(1, 0)) + ay * ((1 - ax) * at(0, 1) + ax * at(1, 1));
}

/// What a pair of frames says: shift of the content (u, v) and growth z, so that a point p of the first is at
/// p + (u, v) + z (p - middle) in the second.
struct Flow {
  double u = 0, v = 0, z = 0, before = 0, after = 0;
};

bool solve(std::array<std::array<double, 4>, 3>& m, std::array<double, 3>& x) {
  for (int i = 0; i < 3; ++i) {
    int pivot = i;
    for (int r = i + 1; r < 3; ++r) {
      if (std::abs(m[r][i]) > std::abs(m[pivot][i])) pivot = r;
    }
    std::swap(m[i], m[pivot]);
    if (std::abs(m[i][i]) < 1e-9) return false;
    for (int r = 0; r < 3; ++r) {
      if (r == i) continue;
      const double factor = m[r][i] / m[i][i];
      for (int c = i; c < 4; ++c) m[r][c] -= factor * m[i][c];
    }
  }
  for (int i = 0; i < 3; ++i) x[i] = m[i][3] / m[i][i];
  return true;
}

class Pair {
 public:
  Pair(const Frames& frames, int64_t first, int64_t second) : width_(frames.width), height_(frames.height) {
    for (const int64_t index : {first, second}) {
      std::vector<double> grey(static_cast<size_t>(width_) * height_), masked(grey.size());
      for (size_t i = 0; i < grey.size(); ++i) {
        const uint8_t* pixel = frames.frame(index) + 3 * i;
        grey[i] = luma(pixel);
        masked[i] = saturation(pixel) > kColored / 3 ? 1 : 0;
      }
      (index == first ? first_ : second_) = std::move(grey);
      (index == first ? first_mask_ : second_mask_) = std::move(masked);
    }
  }

  /// From a guess on.
  Flow flow(Flow flow) const {
    Flow still;
    flow.before = step(still, false);
    constexpr int kRounds = 5;
    for (int round = 0; round < kRounds; ++round) step(flow, true);
    flow.after = step(flow, false);
    return flow;
  }

 private:
  /// One Gauss-Newton step of sum (second(p + flow(p)) - first(p))^2, where asked for; gives the mean square of before
  /// it.
  double step(Flow& flow, bool move) const {
    std::array<std::array<double, 4>, 3> m{};
    double squares = 0, count = 0;
    const double mx = (width_ - 1) / 2.0, my = (height_ - 1) / 2.0;
    for (int y = 2; y < height_ - 2; ++y) {
      for (int x = 2; x < width_ - 2; ++x) {
        const size_t i = static_cast<size_t>(y) * width_ + x;
        const double px = x - mx, py = y - my;
        const double qx = x + flow.u + flow.z * px, qy = y + flow.v + flow.z * py;
        const auto shown = sample(second_, width_, height_, qx, qy);
        const auto masked = sample(second_mask_, width_, height_, qx, qy);
        const auto left = sample(second_, width_, height_, qx - 1, qy),
                   right = sample(second_, width_, height_, qx + 1, qy);
        const auto up = sample(second_, width_, height_, qx, qy - 1),
                   down = sample(second_, width_, height_, qx, qy + 1);
        if (!shown || !left || !right || !up || !down || *masked > 0 || first_mask_[i] > 0) continue;
        // Gradients of both frames' mean: less biased by noise than of one alone.
        const double gx = ((*right - *left) + (first_[i + 1] - first_[i - 1])) / 4;
        const double gy = ((*down - *up) + (first_[i + width_] - first_[i - width_])) / 4;
        const double off = *shown - first_[i];
        const std::array<double, 3> j = {gx, gy, gx * px + gy * py};
        for (int r = 0; r < 3; ++r) {
          for (int c = 0; c < 3; ++c) m[r][c] += j[r] * j[c];
          m[r][3] -= j[r] * off;
        }
        squares += off * off;
        count += 1;
      }
    }
    std::array<double, 3> x{};
    if (move && count > 30 && solve(m, x)) {
      flow.u += x[0];
      flow.v += x[1];
      flow.z += x[2];
    }
    return count > 0 ? squares / count : 0;
  }

  int width_, height_;
  std::vector<double> first_, second_, first_mask_, second_mask_;
};

}  // namespace

std::vector<Track> track_objects(const Frames& frames) {
  const auto width = static_cast<size_t>(frames.width);
  std::vector<double> columns(width);
  const auto weight = [&](int64_t k, int x, int y) {
    return std::max(saturation(frames.frame(k) + 3 * (y * frames.width + x)) - kColored, 0.0);
  };
  for (int64_t k = 0; k < frames.count; ++k) {
    for (int y = 0; y < frames.height; ++y) {
      for (int x = 0; x < frames.width; ++x) columns[x] += weight(k, x, y);
    }
  }
  std::vector<Track> tracks;
  for (size_t left = 0; left < width;) {
    if (columns[left] == 0) {
      ++left;
      continue;
    }
    size_t right = left;
    while (right < width && columns[right] > 0) ++right;
    Track track;
    for (int64_t k = 0; k < frames.count; ++k) {
      Track::Place place;
      for (int y = 0; y < frames.height; ++y) {
        for (size_t x = left; x < right; ++x) {
          const double w = weight(k, static_cast<int>(x), y);
          place.weight += w;
          place.x += w * (static_cast<double>(x) + 0.5);
          place.y += w * (y + 0.5);
        }
      }
      if (place.weight > 0) {
        place.x /= place.weight;
        place.y /= place.weight;
      }
      track.places.push_back(place);
    }
    tracks.push_back(std::move(track));
    left = right;
  }
  return tracks;
}

Contact find_contact(const Track& track, Rational fps) {
  constexpr size_t kLeast = 3;  // frames on either side
  constexpr double kSlope = 4;  // pixels a second: less is no fall
  const double frame_s = 1 / fps.value();
  const size_t count = track.places.size();
  for (const Track::Place& place : track.places) {
    if (place.weight == 0) return {.reason = "the object is not seen all along"};
  }
  double best = 1e300;
  std::optional<double> crossing;
  for (size_t split = kLeast; split + kLeast <= count; ++split) {
    const Line before = fit_line(track, 0, split - 1, frame_s), after = fit_line(track, split, count - 1, frame_s);
    if (before.slope < kSlope || after.slope > -kSlope) continue;
    const double at = (after.at_0 - before.at_0) / (before.slope - after.slope);
    if (before.squares + after.squares >= best) continue;
    best = before.squares + after.squares;
    crossing = at;
  }
  if (!crossing) return {.reason = "no contact seen"};
  if (best / static_cast<double>(count) > 1) return {.reason = "the object does not move along two lines"};
  return {.time_s = *crossing, .reason = ""};
}

std::vector<double> mouth_heights(const Frames& frames) {
  constexpr double kDark = 110;
  std::vector<double> heights;
  const int middle = frames.width / 2;
  for (int64_t k = 0; k < frames.count; ++k) {
    double sum = 0;
    for (int y = 0; y < frames.height; ++y) {
      for (int x = middle - 1; x <= middle; ++x) {
        sum += std::clamp((kDark + 60 - luma(frames.frame(k) + 3 * (y * frames.width + x))) / kDark, 0.0, 1.0) / 2;
      }
    }
    heights.push_back(sum);
  }
  return heights;
}

std::vector<double> find_openings(const std::vector<double>& heights, Rational fps) {
  std::vector<double> times;
  if (heights.size() < 3) return times;
  const auto [low, high] = std::ranges::minmax(heights);
  const double threshold = low + 0.35 * (high - low);
  if (high - low < 0.5) return times;
  for (size_t k = 1; k + 1 < heights.size(); ++k) {
    const bool top = heights[k] > heights[k - 1] && heights[k] >= heights[k + 1];
    if (!top || heights[k] < threshold) continue;
    times.push_back((static_cast<double>(k) + parabola_top(heights[k - 1], heights[k], heights[k + 1])) / fps.value());
  }
  return times;
}

CameraMotion find_camera(const Frames& frames, Rational fps) {
  CameraMotion motion;
  double before = 0, after = 0;
  if (frames.count < 2) return motion;
  // Over several frames an error of a part of a pixel weighs less; the way there is found from neighbours.
  const int64_t stride = std::min<int64_t>(frames.count - 1, 4);
  int64_t covered = 0;
  for (int64_t k = 0; k + stride < frames.count; k += stride) {
    const Flow near = Pair(frames, k, k + 1).flow({});
    const double growth = std::pow(std::max(1 + near.z, 1e-3), stride);
    const Flow guess = {
        .u = near.u * static_cast<double>(stride), .v = near.v * static_cast<double>(stride), .z = growth - 1};
    const Flow flow = Pair(frames, k, k + stride).flow(guess);
    motion.dx -= flow.u;
    motion.dy -= flow.v;
    motion.zoom += std::log(std::max(1 + flow.z, 1e-3));
    before += flow.before;
    after += flow.after;
    covered += stride;
  }
  const double per_second = fps.value() / static_cast<double>(covered);
  motion.dx *= per_second;
  motion.dy *= per_second;
  motion.zoom *= per_second;
  motion.residual = before > 1e-9 ? std::min(after / before, 1.0) : 0;
  return motion;
}

}  // namespace unigrpo::media::detect
