#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "media/clip.h"
#include "media/resample.h"

namespace unigrpo::media {

/// Decoded sound laid out on the clip's clock: silence before what begins later and in gaps, nothing of what lies
/// before the clip's start. Time stamps that are off by less than a few milliseconds are taken for rounding.
class SoundTrack {
 public:
  /// `start_s`: the clip's first moment; `end_s`: where it ends, both on the stream's clock.
  SoundTrack(double start_s, double end_s) : start_s_(start_s), end_s_(end_s) {}

  /// False where the sound is of another kind than what came before: the clip ends at `time_s`. Throws BadInput
  /// (without a file's name) for samples that are no numbers.
  bool take(const AVFrame& frame, double time_s);
  void end_at(double end_s) { end_s_ = end_s; }
  /// The sound so far, at the stream's rate. {0 channels} where none has come.
  Sound take_sound();
  bool guessed_layout() const { return downmix_.guessed(); }
  int64_t num_gaps() const { return num_gaps_; }

 private:
  double start_s_;
  double end_s_;
  int rate_ = 0;
  int format_ = -1;
  int channels_ = 0;
  int64_t next_ = 0;  // place of the next sample, counted from the clip's start
  int64_t num_gaps_ = 0;
  bool begun_ = false;
  Downmix downmix_;
  std::vector<float> left_, right_;
};

}  // namespace unigrpo::media
