#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace unigrpo::media {

/// A number of frames a second, or another ratio that must not be rounded.
struct Rational {
  int64_t num = 0;
  int64_t den = 1;

  double value() const { return static_cast<double>(num) / static_cast<double>(den); }
  bool operator==(const Rational&) const = default;
};

/// 8-bit RGB frames [F, H, W, 3], rows top to bottom, no padding.
struct Frames {
  int64_t count = 0;
  int height = 0;
  int width = 0;
  std::vector<uint8_t> pixels;

  size_t frame_bytes() const { return size_t{3} * static_cast<size_t>(height) * static_cast<size_t>(width); }
  const uint8_t* frame(int64_t index) const { return pixels.data() + static_cast<size_t>(index) * frame_bytes(); }
  uint8_t* frame(int64_t index) { return pixels.data() + static_cast<size_t>(index) * frame_bytes(); }
  bool operator==(const Frames&) const = default;
};

/// A wave [C, S], about -1 to 1, one channel after the other.
struct Sound {
  int channels = 0;
  int rate = 0;  // samples a second
  std::vector<float> samples;

  int64_t length() const { return channels == 0 ? 0 : static_cast<int64_t>(samples.size()) / channels; }
  const float* channel(int index) const { return samples.data() + index * length(); }
  float* channel(int index) { return samples.data() + index * length(); }
  bool operator==(const Sound&) const = default;
};

/// Frames and sound on one clock: frame k is shown from k / fps on, sample i is heard at i / rate. Either may be
/// absent.
struct Clip {
  Frames frames;
  Rational fps;
  Sound sound;

  double frames_s() const { return fps.num == 0 ? 0 : static_cast<double>(frames.count) / fps.value(); }
  double sound_s() const { return sound.rate == 0 ? 0 : static_cast<double>(sound.length()) / sound.rate; }
};

}  // namespace unigrpo::media
