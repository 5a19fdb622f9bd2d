#pragma once

#include <cstdint>
#include <vector>

#include "media/clip.h"
#include "media/libav.h"

namespace unigrpo::media {

/// The sound at another rate, by libswresample: sample i of it is heard at i / rate as before, and its length is that
/// of the sound, rounded. Throws RuntimeFailure where libav refuses.
Sound resample(const Sound& sound, int rate);

/// Decoded sound of any format and layout to two channels of floats: one channel twice, more than two by the ITU's
/// weights, made softer so that nothing clips.
class Downmix {
 public:
  /// Appends the frame's samples to left and right. Throws RuntimeFailure where libav refuses.
  void append(const AVFrame& frame, std::vector<float>& left, std::vector<float>& right);
  /// What more than two channels stand for is a guess by their number.
  bool guessed() const { return guessed_; }

 private:
  void open(const AVFrame& frame);
  Owned<SwrContext> converter_;
  bool guessed_ = false;
};

}  // namespace unigrpo::media
