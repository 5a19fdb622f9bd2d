#include "media/detect/fingerprint.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <numbers>

namespace unigrpo::media::detect {
namespace {

constexpr int kPicture = 32, kBlock = 8;
constexpr double kPi = std::numbers::pi;
using Picture = std::array<double, kPicture * kPicture>;

/// Brightness, each place the mean of the area that it stands for.
Picture shrink(const Frames& frames, int64_t k) {
  Picture small{};
  for (int y = 0; y < kPicture; ++y) {
    for (int x = 0; x < kPicture; ++x) {
      const int x0 = x * frames.width / kPicture, y0 = y * frames.height / kPicture;
      const int x1 = std::max((x + 1) * frames.width / kPicture, x0 + 1);
      const int y1 = std::max((y + 1) * frames.height / kPicture, y0 + 1);
      double sum = 0;
      for (int v = y0; v < y1; ++v) {
        for (int u = x0; u < x1; ++u) {
          const uint8_t* p = frames.frame(k) + 3 * (static_cast<size_t>(v) * frames.width + u);
          sum += 0.299 * p[0] + 0.587 * p[1] + 0.114 * p[2];
        }
      }
      small[static_cast<size_t>(y * kPicture + x)] = sum / ((x1 - x0) * (y1 - y0));
    }
  }
  return small;
}

uint64_t hash_picture(const Picture& picture) {
  std::array<double, kBlock * kPicture> rows{};
  const auto wave = [](int frequency, int place) { return std::cos(kPi * frequency * (place + 0.5) / kPicture); };
  for (int v = 0; v < kBlock; ++v) {
    for (int x = 0; x < kPicture; ++x) {
      for (int y = 0; y < kPicture; ++y) rows[v * kPicture + x] += picture[y * kPicture + x] * wave(v, y);
    }
  }
  std::array<double, kBlock * kBlock> low{};
  for (int v = 0; v < kBlock; ++v) {
    for (int u = 0; u < kBlock; ++u) {
      for (int x = 0; x < kPicture; ++x) low[v * kBlock + u] += rows[v * kPicture + x] * wave(u, x);
    }
  }
  std::array<double, kBlock * kBlock - 1> sorted{};
  std::copy(low.begin() + 1, low.end(), sorted.begin());
  std::ranges::nth_element(sorted, sorted.begin() + sorted.size() / 2);
  uint64_t hash = 0;
  for (size_t i = 1; i < low.size(); ++i) hash |= uint64_t{low[i] > sorted[sorted.size() / 2]} << i;
  return hash;
}

constexpr int kBands = 17, kWindow = 512, kHop = 128;  // samples: 64 and 16 ms
constexpr int kNear = 16;                              // hops, a quarter of a second
constexpr double kHeard = 1e-8;                        // mean energy in a band: -80 dBFS

/// Energies of the bands, whose borders grow by equal ratios, under a Hann window; by sums over their own frequencies.
std::vector<std::array<double, kBands>> band_energies(const std::vector<double>& wave, int rate) {
  constexpr double kLow = 300, kHigh = 3000;
  std::vector<double> window(kWindow);
  for (int i = 0; i < kWindow; ++i) window[i] = 0.5 - 0.5 * std::cos(2 * kPi * (i + 0.5) / kWindow);
  const double step = static_cast<double>(rate) / kWindow;
  std::vector<std::array<double, kBands>> energies;
  std::vector<double> part(kWindow);
  for (size_t at = 0; at + kWindow <= wave.size(); at += kHop) {
    for (int i = 0; i < kWindow; ++i) part[i] = window[i] * wave[at + i];
    std::array<double, kBands> bands{};
    for (int bin = static_cast<int>(std::ceil(kLow / step)); bin * step < kHigh; ++bin) {
      const auto band = static_cast<size_t>(kBands * std::log(bin * step / kLow) / std::log(kHigh / kLow));
      // Goertzel's recursion: one frequency of the transform.
      const double turn = 2 * std::cos(2 * kPi * bin / kWindow);
      double last = 0, before = 0;
      for (const double value : part) {
        const double now = value + turn * last - before;
        before = last;
        last = now;
      }
      bands[std::min<size_t>(band, kBands - 1)] += (last * last + before * before - turn * last * before) / kWindow;
    }
    energies.push_back(bands);
  }
  return energies;
}

}  // namespace

std::array<uint64_t, 3> hash_pictures(const Frames& frames) {
  std::array<uint64_t, 3> hashes{};
  constexpr std::array kPlaces = {0.1, 0.5, 0.9};
  for (size_t i = 0; i < hashes.size() && frames.count > 0; ++i) {
    hashes[i] = hash_picture(shrink(frames, std::lround(kPlaces[i] * static_cast<double>(frames.count - 1))));
  }
  return hashes;
}

std::vector<uint16_t> hash_sound(const Sound& sound) {
  std::vector<double> wave(static_cast<size_t>(sound.length()));
  for (int c = 0; c < sound.channels; ++c) {
    for (size_t i = 0; i < wave.size(); ++i) wave[i] += sound.channel(c)[i] / double(sound.channels);
  }
  const auto energies = band_energies(wave, sound.rate);
  std::vector<uint16_t> bits;
  for (size_t n = 1; n < energies.size(); ++n) {
    const auto& now = energies[n];
    const auto& before = energies[n - 1];
    const double loudest = std::max(*std::ranges::max_element(now), *std::ranges::max_element(before));
    uint16_t word = 0;
    for (size_t m = 0; m + 1 < kBands && loudest > kHeard; ++m) {
      word |= static_cast<uint16_t>((now[m] - now[m + 1] - (before[m] - before[m + 1]) > 0) << m);
    }
    bits.push_back(word);
  }
  return bits;
}

double sound_distance(const std::vector<uint16_t>& a, const std::vector<uint16_t>& b) {
  const auto silent = [](uint16_t word) { return word == 0; };
  const bool a_silent = std::ranges::all_of(a, silent), b_silent = std::ranges::all_of(b, silent);
  if (a_silent || b_silent) return a_silent && b_silent ? 0 : 1;
  double least = 1;
  for (int shift = -kNear; shift <= kNear; ++shift) {
    double other = 0, bits = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const auto j = static_cast<std::ptrdiff_t>(i) + shift;
      if (j < 0 || j >= static_cast<std::ptrdiff_t>(b.size())) continue;
      const uint16_t right = b[static_cast<size_t>(j)];
      if (a[i] == 0 && right == 0) continue;
      other += std::popcount(static_cast<uint16_t>(a[i] ^ right));
      bits += 16;
    }
    // What overlaps by less says nothing.
    if (bits >= 16.0 * static_cast<double>(std::min(a.size(), b.size())) / 2) least = std::min(least, other / bits);
  }
  return least;
}

}  // namespace unigrpo::media::detect
