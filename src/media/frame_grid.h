#pragma once

#include <cstdint>
#include <optional>
#include <utility>

#include "media/clip.h"
#include "media/libav.h"
#include "media/picture.h"

namespace unigrpo::media {

/// Decoded pictures, which come in the order of their times, onto the grid start + k / fps: each place gets the last
/// picture that was shown by then, or the first one where none was.
class FrameGrid {
 public:
  struct Options {
    Rational fps;
    double start_s = 0;      // of the grid, on the pictures' clock
    double tolerance_s = 0;  // that a time stamp may be off by
    int64_t count = 0;       // of places
    PictureSize size = {};
  };
  FrameGrid(const Options& options, Painter painter);

  void take(const AVFrame& frame, double time_s);
  /// The last picture stays until `end_s`. Places that begin later are left out.
  void finish(double end_s);
  bool complete() const { return frames_.count == options_.count; }
  /// When the last picture began; empty: none has come.
  std::optional<double> last_s() const { return last_s_; }
  Frames take_frames() { return std::move(frames_); }

 private:
  double place_s(int64_t k) const;
  void fill(double until_s);
  Options options_;
  Painter painter_;
  Owned<AVFrame> shown_;
  bool painted_ = false;  // the last place filled shows `shown_`
  std::optional<double> last_s_;
  Frames frames_;
};

}  // namespace unigrpo::media
