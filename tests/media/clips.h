#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <numbers>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/rng.h"
#include "io/mapped_file.h"
#include "media/clip.h"
#include "media/decode.h"
#include "support/refusal.h"

namespace unigrpo::media {

struct ClipShape {
  int64_t count = 17;
  int height = 32, width = 48;
  Rational fps = {16, 1};
  int channels = 2, rate = 8000;
};

/// Gradients with a bright disc that moves over them, and a tone that differs between channels.
inline Clip moving_disc(const ClipShape& shape, uint64_t seed = 1) {
  RandomStream stream({.seed = seed});
  Clip clip = {.frames = {.count = shape.count, .height = shape.height, .width = shape.width, .pixels = {}},
               .fps = shape.fps,
               .sound = {.channels = shape.channels, .rate = shape.rate, .samples = {}}};
  const double low = stream.uniform(20, 60), radius = 0.2 * std::min(shape.height, shape.width) + 2;
  const double from = stream.uniform(0.2, 0.8), red = stream.uniform(150, 230);
  clip.frames.pixels.resize(static_cast<size_t>(shape.count) * clip.frames.frame_bytes());
  for (int64_t k = 0; k < shape.count; ++k) {
    const double at = static_cast<double>(k) / static_cast<double>(shape.count);
    const double cx = shape.width * (0.1 + 0.8 * at), cy = shape.height * (from + 0.2 * std::sin(6 * at));
    for (int y = 0; y < shape.height; ++y) {
      for (int x = 0; x < shape.width; ++x) {
        const double inside = std::clamp(radius - std::hypot(x - cx, y - cy), 0.0, 6.0) / 6;
        uint8_t* pixel = clip.frames.frame(k) + 3 * (y * shape.width + x);
        const double ground[3] = {low + 80.0 * x / shape.width, low + 60.0 * y / shape.height, low + 30};
        const double disc[3] = {red, 120, 60};
        for (int c = 0; c < 3; ++c) {
          pixel[c] = static_cast<uint8_t>(std::lround(ground[c] + inside * (disc[c] - ground[c])));
        }
      }
    }
  }
  const auto length = std::llround(clip.frames_s() * shape.rate);
  const double pitch = stream.uniform(200, 600);
  for (int c = 0; c < shape.channels; ++c) {
    for (int64_t i = 0; i < length; ++i) {
      const double t = static_cast<double>(i) / shape.rate;
      clip.sound.samples.push_back(
          static_cast<float>((0.5 - 0.3 * c) * std::sin(2 * std::numbers::pi * pitch * t) * std::exp(-t)));
    }
  }
  return clip;
}

/// Silence with a click of 1 ms at a time.
inline Sound click_at(double time_s, double seconds, int rate) {
  Sound sound = {.channels = 1, .rate = rate, .samples = std::vector<float>(static_cast<size_t>(seconds * rate))};
  for (int64_t i = std::llround(time_s * rate); i < std::llround((time_s + 1e-3) * rate); ++i) sound.samples[i] = 0.9F;
  return sound;
}

/// Where the sound first reaches half of its largest value.
inline double click_time(const Sound& sound, int channel = 0) {
  const float* samples = sound.channel(channel);
  float largest = 0;
  for (int64_t i = 0; i < sound.length(); ++i) largest = std::max(largest, std::abs(samples[i]));
  for (int64_t i = 0; i < sound.length(); ++i) {
    if (std::abs(samples[i]) >= largest / 2) return static_cast<double>(i) / sound.rate;
  }
  return -1;
}

/// Decibels over all frames, of the part that both have (the file's may be padded).
inline double psnr(const Frames& a, const Frames& b) {
  double sum = 0;
  const int height = std::min(a.height, b.height), width = std::min(a.width, b.width);
  for (int64_t k = 0; k < std::min(a.count, b.count); ++k) {
    for (int y = 0; y < height; ++y) {
      for (int i = 0; i < 3 * width; ++i) {
        const double difference = a.frame(k)[size_t{3} * y * a.width + i] - b.frame(k)[size_t{3} * y * b.width + i];
        sum += difference * difference;
      }
    }
  }
  return 10 * std::log10(255.0 * 255 * 3 * height * width * static_cast<double>(std::min(a.count, b.count)) / sum);
}

/// decode() of a file, in this process.
inline ReadResult decode_file(const std::filesystem::path& path, const ReadOptions& options = {}) {
  const io::InputFile file(path);
  return decode(file.descriptor(), path.filename().string(), options);
}

using unigrpo::testing::refusal;

/// What a program prints; "failed" where it cannot be run or ends badly.
inline std::string output_of(const std::string& command) {
  std::FILE* pipe = popen((command + " 2>/dev/null").c_str(), "r");
  if (pipe == nullptr) return "failed";
  std::string text;
  char block[4096];
  for (size_t size = 0; (size = std::fread(block, 1, sizeof block, pipe)) > 0;) text.append(block, size);
  return pclose(pipe) == 0 ? text : "failed";
}

/// ffmpeg makes the files that our own writer does not; setup.sh installs it.
inline bool ffmpeg(const std::string& arguments) {
  return output_of("ffmpeg -nostdin -v error -y " + arguments + " && echo done") == "done\n";
}

}  // namespace unigrpo::media
