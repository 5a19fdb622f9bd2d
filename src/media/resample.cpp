#include "media/resample.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <new>

#include "base/error.h"

extern "C" {
#include <libavutil/channel_layout.h>
#include <libavutil/frame.h>
#include <libavutil/opt.h>
#include <libswresample/swresample.h>
}

namespace unigrpo::media {
namespace {

struct SoundFormat {
  AVChannelLayout* layout;  // libav takes no const one, and changes nothing
  AVSampleFormat format;
  int rate;
};

Owned<SwrContext> make_converter(const SoundFormat& to, const SoundFormat& from) {
  SwrContext* made = nullptr;
  const int set =
      swr_alloc_set_opts2(&made, to.layout, to.format, to.rate, from.layout, from.format, from.rate, 0, nullptr);
  Owned<SwrContext> converter(made);
  if (set < 0 || !converter) throw RuntimeFailure("sound of this kind cannot be converted: {}", error_text(set));
  return converter;
}

void open_converter(SwrContext& converter) {
  if (const int opened = swr_init(&converter); opened < 0) {
    throw RuntimeFailure("sound of this kind cannot be converted: {}", error_text(opened));
  }
}

}  // namespace

Sound resample(const Sound& sound, int rate) {
  if (rate == sound.rate) return sound;
  const int64_t wanted = std::llround(static_cast<double>(sound.length()) * rate / sound.rate);
  Sound converted = {.channels = sound.channels, .rate = rate, .samples = {}};
  converted.samples.resize(static_cast<size_t>(wanted) * sound.channels);
  AVChannelLayout layout{};
  av_channel_layout_default(&layout, sound.channels);
  const Owned<SwrContext> converter =
      make_converter({&layout, AV_SAMPLE_FMT_FLTP, rate}, {&layout, AV_SAMPLE_FMT_FLTP, sound.rate});
  open_converter(*converter);
  constexpr int64_t kBlock = 1 << 16;
  std::vector<const uint8_t*> from(static_cast<size_t>(sound.channels));
  std::vector<uint8_t*> to(static_cast<size_t>(sound.channels));
  int64_t read = 0, written = 0;
  while (written < wanted) {
    const int64_t block = std::min(kBlock, sound.length() - read);
    for (int c = 0; c < sound.channels; ++c) {
      from[c] = reinterpret_cast<const uint8_t*>(sound.channel(c) + read);
      to[c] = reinterpret_cast<uint8_t*>(converted.channel(c) + written);
    }
    const int got =
        swr_convert(converter.get(), to.data(), static_cast<int>(std::min<int64_t>(wanted - written, INT32_MAX)),
                    block > 0 ? from.data() : nullptr, static_cast<int>(block));
    if (got < 0) throw RuntimeFailure("sound cannot be resampled: {}", error_text(got));
    if (got == 0 && block == 0) break;  // all is out; what is missing to the rounded length stays silent
    read += block;
    written += got;
  }
  return converted;
}

void Downmix::open(const AVFrame& frame) {
  AVChannelLayout layout{};
  const bool unknown = frame.ch_layout.order == AV_CHANNEL_ORDER_UNSPEC;
  guessed_ = unknown && frame.ch_layout.nb_channels > 2;
  if (unknown) {
    av_channel_layout_default(&layout, frame.ch_layout.nb_channels);
  } else if (av_channel_layout_copy(&layout, &frame.ch_layout) < 0) {
    throw std::bad_alloc();
  }
  AVChannelLayout target{};
  // One channel stays one here: libswresample would take 3 dB off it.
  av_channel_layout_default(&target, frame.ch_layout.nb_channels == 1 ? 1 : 2);
  converter_ = make_converter({&target, AV_SAMPLE_FMT_FLTP, frame.sample_rate},
                              {&layout, static_cast<AVSampleFormat>(frame.format), frame.sample_rate});
  // Without it libswresample normalises the mix of whole numbers, but not that of floats.
  av_opt_set_double(converter_.get(), "rematrix_maxval", 1.0, 0);
  av_channel_layout_uninit(&layout);
  open_converter(*converter_);
}

void Downmix::append(const AVFrame& frame, std::vector<float>& left, std::vector<float>& right) {
  if (!converter_) open(frame);
  const size_t before = left.size(), count = static_cast<size_t>(frame.nb_samples);
  left.resize(before + count);
  right.resize(before + count);
  std::array<uint8_t*, 2> to = {reinterpret_cast<uint8_t*>(left.data() + before),
                                reinterpret_cast<uint8_t*>(right.data() + before)};
  const int got = swr_convert(converter_.get(), to.data(), frame.nb_samples,
                              const_cast<const uint8_t**>(frame.extended_data), frame.nb_samples);
  if (got < 0) throw RuntimeFailure("sound cannot be converted: {}", error_text(got));
  if (frame.ch_layout.nb_channels == 1)
    std::copy_n(left.begin() + static_cast<std::ptrdiff_t>(before), count,
                right.begin() + static_cast<std::ptrdiff_t>(before));
}

}  // namespace unigrpo::media
