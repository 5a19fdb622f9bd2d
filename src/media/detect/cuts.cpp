#include "media/detect/cuts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

namespace unigrpo::media::detect {
namespace {

constexpr int kHues = 12, kSaturations = 4, kValues = 4;
constexpr double kPlain = 3;  // standard deviation of brightness, 0..255: less is a plain picture
constexpr int kReach = 4;     // frames on either side that say what is usual

/// One picture's share of each of the colours, hue by saturation by value.
using Histogram = std::array<double, kHues * kSaturations * kValues>;

struct Look {
  Histogram colors = {};
  std::vector<uint8_t> edges;  // 1: an edge [H, W]
  std::vector<uint8_t> near;   // 1: an edge within 2 pixels
  std::vector<double> luma;
  double mean = 0, deviation = 0;
};

size_t color_bin(const uint8_t* p) {
  const int high = std::max({p[0], p[1], p[2]}), range = high - std::min({p[0], p[1], p[2]});
  double hue = 0;
  if (range > 0) {
    if (high == p[0]) hue = std::fmod(double(p[1] - p[2]) / range + 6, 6);
    if (high == p[1]) hue = double(p[2] - p[0]) / range + 2;
    if (high == p[2]) hue = double(p[0] - p[1]) / range + 4;
  }
  const double saturation = high == 0 ? 0 : double(range) / high;
  // The hue of what is nearly grey is noise.
  const int h = saturation < 0.1 ? 0 : std::min(static_cast<int>(hue / 6 * kHues), kHues - 1);
  const int s = std::min(static_cast<int>(saturation * kSaturations), kSaturations - 1);
  const int v = std::min(high * kValues / 256, kValues - 1);
  return static_cast<size_t>((h * kSaturations + s) * kValues + v);
}

void find_edges(Look& look, int width, int height) {
  constexpr double kEdge = 30;  // of the gradient, brightness a pixel
  look.edges.assign(look.luma.size(), 0);
  look.near.assign(look.luma.size(), 0);
  for (int y = 1; y + 1 < height; ++y) {
    for (int x = 1; x + 1 < width; ++x) {
      const size_t i = static_cast<size_t>(y) * width + x;
      const double gx = look.luma[i + 1] - look.luma[i - 1], gy = look.luma[i + width] - look.luma[i - width];
      if (std::hypot(gx, gy) / 2 < kEdge / 2) continue;
      look.edges[i] = 1;
      for (int dy = -2; dy <= 2; ++dy) {
        for (int dx = -2; dx <= 2; ++dx) {
          if (y + dy >= 0 && y + dy < height && x + dx >= 0 && x + dx < width) look.near[i + dy * width + dx] = 1;
        }
      }
    }
  }
}

Look look_at(const Frames& frames, int64_t k) {
  Look look;
  const size_t count = static_cast<size_t>(frames.width) * frames.height;
  look.luma.resize(count);
  double squares = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* p = frames.frame(k) + 3 * i;
    look.colors[color_bin(p)] += 1.0 / static_cast<double>(count);
    look.luma[i] = 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
    look.mean += look.luma[i] / static_cast<double>(count);
    squares += look.luma[i] * look.luma[i] / static_cast<double>(count);
  }
  look.deviation = std::sqrt(std::max(squares - look.mean * look.mean, 0.0));
  find_edges(look, frames.width, frames.height);
  return look;
}

/// Share of all pixels that have another colour, 0..1.
double color_change(const Look& a, const Look& b) {
  double sum = 0;
  for (size_t i = 0; i < a.colors.size(); ++i) sum += std::abs(a.colors[i] - b.colors[i]) / 2;
  return sum;
}

/// The larger of the shares of edges that came and that went, 0..1.
double edge_change(const Look& a, const Look& b) {
  double in_a = 0, in_b = 0, went = 0, came = 0;
  for (size_t i = 0; i < a.edges.size(); ++i) {
    in_a += a.edges[i];
    in_b += b.edges[i];
    went += a.edges[i] & ~b.near[i] & 1;
    came += b.edges[i] & ~a.near[i] & 1;
  }
  constexpr double kFewEdges = 20;  // of which a share says nothing
  if (std::max(in_a, in_b) < kFewEdges) return 0;
  return std::max(in_a > 0 ? went / in_a : 0, in_b > 0 ? came / in_b : 0);
}

/// Mean difference of brightness, 0..1.
double brightness_change(const Look& a, const Look& b) {
  double sum = 0;
  for (size_t i = 0; i < a.luma.size(); ++i) sum += std::abs(a.luma[i] - b.luma[i]) / 255;
  return sum / static_cast<double>(a.luma.size());
}

/// The median of the others within kReach of place k.
double usual(const std::vector<double>& changes, size_t k) {
  std::vector<double> others;
  for (size_t j = k >= kReach ? k - kReach : 0; j < std::min(k + kReach + 1, changes.size()); ++j) {
    if (j != k) others.push_back(changes[j]);
  }
  if (others.empty()) return 0;
  const auto middle = others.begin() + static_cast<std::ptrdiff_t>(others.size() / 2);
  std::ranges::nth_element(others, middle);
  return *middle;
}

/// Marks the slope that leads from the plain frame k into one direction, if any: contrast rises from little on, frame
/// by frame.
void mark_slope(const std::vector<Look>& looks, size_t k, int step, std::vector<bool>& mark) {
  constexpr double kRise = 1.03;
  double before = std::max(looks[k].deviation, kPlain);
  for (auto j = static_cast<std::ptrdiff_t>(k) + step; j >= 0 && j < static_cast<std::ptrdiff_t>(looks.size());
       j += step) {
    const double deviation = looks[static_cast<size_t>(j)].deviation;
    // The first step after a cut is high at once.
    if (deviation < before * kRise || (before == kPlain && deviation > 8 * kPlain)) return;
    mark[static_cast<size_t>(j)] = true;
    before = deviation;
  }
}

/// Marks the frames that are plain, and those of the slopes to and from them where contrast rises or falls steadily.
std::vector<bool> faded(const std::vector<Look>& looks) {
  const size_t count = looks.size();
  std::vector<bool> mark(count);
  for (size_t k = 0; k < count; ++k) mark[k] = looks[k].deviation < kPlain;
  const std::vector<bool> plain = mark;
  for (size_t k = 0; k < count; ++k) {
    if (!plain[k]) continue;
    if (k + 1 < count && !plain[k + 1]) mark_slope(looks, k, 1, mark);
    if (k > 0 && !plain[k - 1]) mark_slope(looks, k, -1, mark);
  }
  return mark;
}

}  // namespace

std::vector<Shot> find_shots(const Frames& frames) {
  std::vector<Look> looks;
  std::vector<double> colors, edges, brightness;
  for (int64_t k = 0; k < frames.count; ++k) {
    looks.push_back(look_at(frames, k));
    if (k == 0) continue;
    const Look& before = looks[looks.size() - 2];
    colors.push_back(color_change(before, looks.back()));
    edges.push_back(edge_change(before, looks.back()));
    brightness.push_back(brightness_change(before, looks.back()));
  }
  const std::vector<bool> fade = faded(looks);
  std::vector<Shot> shots;
  Shot shot;
  const auto end_shot = [&](size_t next) {
    if (shot.count > 0) shots.push_back(shot);
    shot = {.first = static_cast<int64_t>(next), .count = 0};
  };
  for (size_t k = 0; k < looks.size(); ++k) {
    if (fade[k]) {
      end_shot(k + 1);
      continue;
    }
    if (k > 0 && !fade[k - 1]) {
      const size_t c = k - 1;
      // Where everything moves all the time, a change must stand out of it.
      const bool by_color = colors[c] > 0.4 && colors[c] > 3 * usual(colors, c) && brightness[c] > 0.03;
      const bool by_edges = edges[c] > 0.7 && brightness[c] > 0.08 && brightness[c] > 3 * usual(brightness, c);
      if (by_color || by_edges) end_shot(k);
    }
    ++shot.count;
  }
  end_shot(looks.size());
  return shots;
}

}  // namespace unigrpo::media::detect
