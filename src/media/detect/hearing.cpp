#include "media/detect/hearing.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace unigrpo::media::detect {
namespace {

constexpr double kHop_s = 0.005;
constexpr double kFloor = 1e-6;    // energy of -60 dBFS
constexpr double kStep = 4;        // of energies: 6 dB up is an onset
constexpr double kApart_s = 0.05;  // two onsets
constexpr double kPi = std::numbers::pi;

std::vector<double> mono(const Sound& sound) {
  std::vector<double> mixed(static_cast<size_t>(sound.length()));
  for (int c = 0; c < sound.channels; ++c) {
    const float* samples = sound.channel(c);
    for (size_t i = 0; i < mixed.size(); ++i) mixed[i] += samples[i] / double(sound.channels);
  }
  return mixed;
}

std::vector<double> energies(const std::vector<double>& wave, size_t hop) {
  std::vector<double> sums(wave.size() / hop);
  for (size_t k = 0; k < sums.size(); ++k) {
    for (size_t i = k * hop; i < (k + 1) * hop; ++i) sums[k] += wave[i] * wave[i] / static_cast<double>(hop);
  }
  return sums;
}

}  // namespace

std::vector<double> find_onsets(const Sound& sound) {
  std::vector<double> times;
  if (sound.rate <= 0 || sound.length() == 0) return times;
  const std::vector<double> wave = mono(sound);
  const auto hop = std::max<size_t>(static_cast<size_t>(std::lround(kHop_s * sound.rate)), 1);
  const std::vector<double> energy = energies(wave, hop);
  constexpr size_t kBefore = 4;  // blocks that the step is measured against: a low note's own beat is no step
  for (size_t k = 0; k < energy.size(); ++k) {
    double before = kFloor;
    for (size_t j = k >= kBefore ? k - kBefore : 0; j < k; ++j) before = std::max(before, energy[j]);
    const double peak = *std::max_element(energy.begin() + static_cast<std::ptrdiff_t>(k),
                                          energy.begin() + static_cast<std::ptrdiff_t>(std::min(k + 4, energy.size())));
    if (energy[k] < 2 * before || peak < kStep * before || peak < 100 * kFloor) continue;
    const double at_block_s = static_cast<double>(k * hop) / sound.rate;
    if (!times.empty() && at_block_s - times.back() < kApart_s) continue;
    // Within the block and the one before it: the first sample above what came before and a part of what follows.
    const double level = std::max(std::sqrt(before) * 1.6, 0.15 * std::sqrt(peak));
    size_t i = k == 0 ? 0 : (k - 1) * hop;
    while (i + 1 < wave.size() && std::abs(wave[i]) < level) ++i;
    times.push_back(static_cast<double>(i) / sound.rate);
  }
  return times;
}

std::optional<double> find_pitch(const Sound& sound, double from_s) {
  constexpr double kWindow_s = 0.15, kLowest = 80, kHighest = 1200, kPeriodic = 0.6;
  const std::vector<double> wave = mono(sound);
  const auto first =
      static_cast<size_t>(std::clamp(std::lround(from_s * sound.rate), 0L, static_cast<long>(wave.size())));
  const size_t count = std::min(wave.size() - first, static_cast<size_t>(std::lround(kWindow_s * sound.rate)));
  const auto longest = static_cast<size_t>(sound.rate / kLowest), shortest = static_cast<size_t>(sound.rate / kHighest);
  if (count < 3 * longest || shortest < 2) return std::nullopt;
  std::vector<double> similar(longest + 2);
  for (size_t lag = shortest - 1; lag < similar.size(); ++lag) {
    double product = 0, left = 1e-12, right = 1e-12;
    for (size_t i = first; i + lag < first + count; ++i) {
      product += wave[i] * wave[i + lag];
      left += wave[i] * wave[i];
      right += wave[i + lag] * wave[i + lag];
    }
    similar[lag] = left < 1e-9 ? 0 : product / std::sqrt(left * right);
  }
  double highest = 0;
  for (size_t lag = shortest; lag <= longest; ++lag) highest = std::max(highest, similar[lag]);
  if (highest < kPeriodic) return std::nullopt;
  for (size_t lag = shortest; lag <= longest; ++lag) {  // the first peak that is nearly the highest: no multiple of it
    const double before = similar[lag - 1], middle = similar[lag], after = similar[lag + 1];
    if (middle < 0.93 * highest || middle < before || middle < after) continue;
    const double bend = before - 2 * middle + after;
    const double off = bend < 0 ? std::clamp(0.5 * (before - after) / bend, -0.5, 0.5) : 0;
    // Of the peaks at multiples of the period the last is the most precise.
    double period = static_cast<double>(lag) + off;
    for (int multiple = 2;; ++multiple) {
      const auto place = static_cast<size_t>(std::lround(period * multiple));
      if (place + 1 > longest) return sound.rate / period;
      size_t top = place;
      for (size_t near : {place - 1, place + 1}) top = similar[near] > similar[top] ? near : top;
      if (top + 1 >= similar.size() || similar[top] < 0.8 * highest) return sound.rate / period;
      const double bend_there = similar[top - 1] - 2 * similar[top] + similar[top + 1];
      const double off_there =
          bend_there < 0 ? std::clamp(0.5 * (similar[top - 1] - similar[top + 1]) / bend_there, -0.5, 0.5) : 0;
      period = (static_cast<double>(top) + off_there) / multiple;
    }
  }
  return std::nullopt;
}

double semitones_of(double frequency) { return 12 * std::log2(frequency / 261.6256); }

double class_distance(double semitones, int pitch) {
  double off = std::fmod(semitones - pitch, 12);
  if (off < 0) off += 12;
  return std::min(off, 12 - off);
}

double spectral_center(const Sound& sound, double from_s) {
  constexpr double kWindow_s = 0.06;
  constexpr int kPlaces = 40;
  const std::vector<double> wave = mono(sound);
  const auto first =
      static_cast<size_t>(std::clamp(std::lround(from_s * sound.rate), 0L, static_cast<long>(wave.size())));
  const size_t count = std::min(wave.size() - first, static_cast<size_t>(std::lround(kWindow_s * sound.rate)));
  double power = 1e-12, moment = 0;
  for (int p = 0; p < kPlaces; ++p) {
    const double frequency = (p + 0.5) * sound.rate / 2.0 / kPlaces;
    double re = 0, im = 0;
    for (size_t i = 0; i < count; ++i) {
      const double window = 0.5 - 0.5 * std::cos(2 * kPi * static_cast<double>(i) / static_cast<double>(count));
      const double angle = 2 * kPi * frequency * static_cast<double>(i) / sound.rate;
      re += window * wave[first + i] * std::cos(angle);
      im += window * wave[first + i] * std::sin(angle);
    }
    power += re * re + im * im;
    moment += frequency * (re * re + im * im);
  }
  return moment / power;
}

double right_level(const Sound& sound) {
  if (sound.channels < 2) return 0;
  double energy[2] = {1e-12, 1e-12};
  for (int c = 0; c < 2; ++c) {
    for (int64_t i = 0; i < sound.length(); ++i) energy[c] += std::pow(sound.channel(c)[i], 2);
  }
  return 10 * std::log10(energy[1] / energy[0]);
}

std::vector<double> envelope(const Sound& sound) {
  std::vector<double> wave = mono(sound);
  // One pole each: what is below 300 Hz and above 3,000 Hz is held back.
  const double low = std::exp(-2 * kPi * 300 / sound.rate), high = std::exp(-2 * kPi * 3000 / sound.rate);
  double slow = 0, fast = 0;
  for (double& value : wave) {
    slow = low * slow + (1 - low) * value;
    fast = high * fast + (1 - high) * (value - slow);
    value = fast;
  }
  const auto hop = std::max<size_t>(static_cast<size_t>(std::lround(kEnvelopeHop_s * sound.rate)), 1);
  std::vector<double> level = energies(wave, hop);
  for (double& value : level) value = std::sqrt(value);
  // A voice's own beat (some 7 ms) is smoothed away.
  std::vector<double> smooth(level.size());
  constexpr int kReach = 4;
  for (size_t k = 0; k < level.size(); ++k) {
    double sum = 0, weights = 0;
    for (int j = -kReach; j <= kReach; ++j) {
      const auto at = static_cast<std::ptrdiff_t>(k) + j;
      if (at < 0 || at >= static_cast<std::ptrdiff_t>(level.size())) continue;
      sum += level[static_cast<size_t>(at)] * (kReach + 1 - std::abs(j));
      weights += kReach + 1 - std::abs(j);
    }
    smooth[k] = sum / weights;
  }
  return smooth;
}

std::vector<double> find_bursts(const std::vector<double>& envelope) {
  std::vector<double> times;
  if (envelope.empty()) return times;
  const double high = *std::ranges::max_element(envelope);
  if (high < 1e-3) return times;
  // Each stretch above a third of the loudest, its middle weighted by loudness.
  double sum = 0, moment = 0;
  for (size_t k = 0; k <= envelope.size(); ++k) {
    if (k < envelope.size() && envelope[k] > high / 3) {
      sum += envelope[k];
      moment += envelope[k] * (static_cast<double>(k) + 0.5) * kEnvelopeHop_s;
    } else if (sum > 0) {
      times.push_back(moment / sum);
      sum = moment = 0;
    }
  }
  return times;
}

double loudness(const Sound& sound) {
  double sum = 0;
  for (const float sample : sound.samples) sum += double(sample) * sample;
  return sound.samples.empty() ? 0 : std::sqrt(sum / static_cast<double>(sound.samples.size()));
}

}  // namespace unigrpo::media::detect
