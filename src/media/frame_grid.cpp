#include "media/frame_grid.h"

#include <algorithm>
#include <new>

extern "C" {
#include <libavutil/frame.h>
}

namespace unigrpo::media {

FrameGrid::FrameGrid(const Options& options, Painter painter)
    : options_(options), painter_(std::move(painter)), shown_(make_frame()) {
  frames_ = {.count = 0, .height = options.size.height, .width = options.size.width, .pixels = {}};
  frames_.pixels.reserve(static_cast<size_t>(options.count) * frames_.frame_bytes());
}

double FrameGrid::place_s(int64_t k) const {
  return options_.start_s +
         static_cast<double>(k) * static_cast<double>(options_.fps.den) / static_cast<double>(options_.fps.num);
}

void FrameGrid::take(const AVFrame& frame, double time_s) {
  if (last_s_) fill(time_s);
  av_frame_unref(shown_.get());
  if (av_frame_ref(shown_.get(), &frame) < 0) throw std::bad_alloc();
  painted_ = false;
  last_s_ = last_s_ ? std::max(*last_s_, time_s) : time_s;
}

void FrameGrid::finish(double end_s) {
  if (last_s_) fill(end_s);
}

void FrameGrid::fill(double until_s) {
  while (!complete() && place_s(frames_.count) < until_s - options_.tolerance_s) {
    const size_t bytes = frames_.frame_bytes(), offset = frames_.pixels.size();
    frames_.pixels.resize(offset + bytes);
    if (painted_) {
      std::copy_n(frames_.pixels.begin() + static_cast<std::ptrdiff_t>(offset - bytes), bytes,
                  frames_.pixels.begin() + static_cast<std::ptrdiff_t>(offset));
    } else {
      painter_.paint(*shown_, options_.size, frames_.pixels.data() + offset);
      painted_ = true;
    }
    ++frames_.count;
  }
}

}  // namespace unigrpo::media
