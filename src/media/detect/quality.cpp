#include "media/detect/quality.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <vector>

namespace unigrpo::media::detect {
namespace {

constexpr double kApart_s = 0.25;  // of two frames that motion is read from: slow things move within it
constexpr int kBlack = 24;         // of bars, after a codec

using Grey = std::vector<uint8_t>;

Grey grey_of(const Frames& frames, int64_t k) {
  Grey grey(frames.frame_bytes() / 3);
  for (size_t i = 0; i < grey.size(); ++i) {
    const uint8_t* p = frames.frame(k) + 3 * i;
    grey[i] = static_cast<uint8_t>((299 * p[0] + 587 * p[1] + 114 * p[2] + 500) / 1000);
  }
  return grey;
}

void measure_brightness(const std::vector<Grey>& pictures, PictureQuality& quality) {
  std::array<double, 256> counts{};
  double total = 0;
  for (const Grey& picture : pictures) {
    for (const uint8_t value : picture) ++counts[value];
    total += static_cast<double>(picture.size());
  }
  double sum = 0, below = 0;
  bool found = false;
  for (int value = 0; value < 256; ++value) {
    sum += value * counts[value];
    below += counts[value];
    if (!found && below >= 0.95 * total) {
      quality.bright_end = value;
      found = true;
    }
  }
  quality.brightness = sum / total;
}

double edge_density_of(const Grey& picture, int width, int height) {
  constexpr int kStrong = 70;  // between neighbours
  double count = 0;
  for (int y = 0; y + 1 < height; ++y) {
    for (int x = 0; x + 1 < width; ++x) {
      const size_t i = static_cast<size_t>(y) * width + x;
      count += std::max(std::abs(picture[i] - picture[i + 1]), std::abs(picture[i] - picture[i + width])) > kStrong;
    }
  }
  return count / std::max<double>(static_cast<double>(picture.size()), 1);
}

void measure_motion(const std::vector<Grey>& pictures, Rational fps, PictureQuality& quality) {
  constexpr int kMoves = 8, kSame = 2;  // of brightness
  const auto apart = static_cast<size_t>(std::max<long>(std::lround(kApart_s * fps.value()), 1));
  double changes = 0, pairs = 0, repeats = 0;
  for (size_t k = apart; k < pictures.size(); ++k) {
    double sum = 0, moving = 0;
    bool same = true;
    for (size_t i = 0; i < pictures[k].size(); ++i) {
      const int change = std::abs(pictures[k][i] - pictures[k - apart][i]);
      sum += change;
      moving += change > kMoves;
      same = same && std::abs(pictures[k][i] - pictures[k - 1][i]) <= kSame;
    }
    const double share = moving / static_cast<double>(pictures[k].size());
    quality.moving = std::max(quality.moving, share);
    changes += sum / static_cast<double>(pictures[k].size()) / 255;
    ++pairs;
    repeats += same && share > 0.002;
  }
  if (pairs == 0) return;
  quality.motion = changes / pairs;
  quality.repeated = repeats / pairs;
}

/// How many of the lines 0, 1, ... are black all along.
template <typename Brightest>
int num_bars(int count, const Brightest& brightest) {
  int bars = 0;
  while (bars < count && brightest(bars) <= kBlack) ++bars;
  return bars;
}

PictureQuality::Box inside_of(const std::vector<Grey>& pictures, int width, int height) {
  std::vector<int> rows(static_cast<size_t>(height)), columns(static_cast<size_t>(width));
  for (const Grey& picture : pictures) {
    for (int y = 0; y < height; ++y) {
      for (int x = 0; x < width; ++x) {
        const int value = picture[static_cast<size_t>(y) * width + x];
        rows[y] = std::max(rows[y], value);
        columns[x] = std::max(columns[x], value);
      }
    }
  }
  const int top = num_bars(height, [&](int i) { return rows[i]; });
  const int left = num_bars(width, [&](int i) { return columns[i]; });
  if (top == height) return {};  // black all over is no bar
  const int bottom = num_bars(height, [&](int i) { return rows[height - 1 - i]; });
  const int right = num_bars(width, [&](int i) { return columns[width - 1 - i]; });
  return {.x = double(left) / width,
          .y = double(top) / height,
          .width = double(width - left - right) / width,
          .height = double(height - top - bottom) / height};
}

double decibels(double power) { return power < 1e-20 ? -200 : 10 * std::log10(power); }

}  // namespace

PictureQuality look_at_quality(const Frames& frames, Rational fps) {
  PictureQuality quality;
  if (frames.count == 0) return quality;
  std::vector<Grey> pictures;
  for (int64_t k = 0; k < frames.count; ++k) pictures.push_back(grey_of(frames, k));
  measure_brightness(pictures, quality);
  for (const Grey& picture : pictures) {
    quality.edge_density +=
        edge_density_of(picture, frames.width, frames.height) / static_cast<double>(pictures.size());
  }
  measure_motion(pictures, fps, quality);
  quality.inside = inside_of(pictures, frames.width, frames.height);
  return quality;
}

SoundQuality listen_to_quality(const Sound& sound) {
  constexpr float kFull = 0.95F, kHalf = 0.5F;  // a codec lets what was cut off swing around full scale
  SoundQuality quality;
  const auto length = static_cast<double>(std::max<int64_t>(sound.length(), 1));
  double all = 0, full = 0, half = 0;
  for (int c = 0; c < std::min(sound.channels, 2); ++c) {
    double power = 0;
    for (int64_t i = 0; i < sound.length(); ++i) {
      const float sample = sound.channel(c)[i];
      power += double(sample) * sample / length;
      full += std::abs(sample) >= kFull;
      half += std::abs(sample) >= kHalf;
    }
    quality.channel_db[c] = decibels(power);
    all += power;
  }
  const double channels = std::max(sound.channels, 1);
  quality.level_db = decibels(all / channels);
  quality.full_scale = full / (length * channels);
  quality.clipped = half > 0 ? full / half : 0;
  return quality;
}

}  // namespace unigrpo::media::detect
