#include "media/sound_track.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "media/input.h"

extern "C" {
#include <libavutil/frame.h>
}

namespace unigrpo::media {
namespace {

constexpr double kJitter_s = 0.01;  // Matroska rounds to milliseconds, recorders do worse

}  // namespace

bool SoundTrack::take(const AVFrame& frame, double time_s) {
  if (frame.nb_samples <= 0) return true;
  if (rate_ == 0) {
    if (frame.sample_rate <= 0 || frame.sample_rate > kMaxRate) {
      throw BadInput("{} samples a second, at most {} are read", frame.sample_rate, kMaxRate);
    }
    rate_ = frame.sample_rate;
    format_ = frame.format;
    channels_ = frame.ch_layout.nb_channels;
  }
  if (frame.sample_rate != rate_ || frame.format != format_ || frame.ch_layout.nb_channels != channels_) return false;
  const double place = (time_s - start_s_) * rate_;
  if (std::abs(place) > (kMaxSeconds + 1) * kMaxRate) throw BadInput("sound at {:.0f} s, beyond every bound", time_s);
  const int64_t told = std::llround(place);
  if (!begun_) {
    next_ = told;
  } else if (std::abs(static_cast<double>(told - next_)) > kJitter_s * rate_) {
    ++num_gaps_;
    next_ = told;
  }
  begun_ = true;
  const auto limit = static_cast<int64_t>(std::llround((end_s_ - start_s_) * rate_));
  if (next_ >= limit) return true;

  const size_t before = left_.size();
  downmix_.append(frame, left_, right_);
  for (size_t i = before; i < left_.size(); ++i) {
    if (!std::isfinite(left_[i]) || !std::isfinite(right_[i])) {
      throw BadInput("sound that is no number at {:.2f} s",
                     std::max(0.0, static_cast<double>(next_ + static_cast<int64_t>(i - before)) / rate_));
    }
  }
  // What was appended belongs at `next_`: silence before it, or less of it or of what was there already.
  const auto length = static_cast<int64_t>(before);
  for (std::vector<float>* channel : {&left_, &right_}) {
    const auto fresh = channel->begin() + static_cast<std::ptrdiff_t>(before);
    if (next_ >= length) {
      channel->insert(fresh, static_cast<size_t>(next_ - length), 0.0F);
    } else {
      const int64_t overlap = std::min<int64_t>(length - next_, frame.nb_samples);
      channel->erase(fresh, fresh + static_cast<std::ptrdiff_t>(overlap));
    }
  }
  next_ += frame.nb_samples;
  if (static_cast<int64_t>(left_.size()) > limit) {
    left_.resize(static_cast<size_t>(limit));
    right_.resize(static_cast<size_t>(limit));
  }
  return true;
}

Sound SoundTrack::take_sound() {
  if (rate_ == 0) return {};
  const auto limit = static_cast<size_t>(std::max<int64_t>(std::llround((end_s_ - start_s_) * rate_), 0));
  left_.resize(std::min(left_.size(), limit));
  right_.resize(left_.size());
  Sound sound = {.channels = 2, .rate = rate_, .samples = std::move(left_)};
  sound.samples.insert(sound.samples.end(), right_.begin(), right_.end());
  return sound;
}

}  // namespace unigrpo::media
