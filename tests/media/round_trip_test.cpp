// Written and read again: frames within the codec's error, sound aligned to the sample.
#include <gtest/gtest.h>

#include "media/clips.h"
#include "media/write_mp4.h"
#include "support/temp_folder.h"

namespace unigrpo::media {
namespace {

constexpr double kPsnr = 34, kSmallPsnr = 22;  // dB

/// By how many samples b comes after a, where they agree best.
int64_t lag_of(const float* a, const float* b, int64_t length) {
  constexpr int64_t kFurthest = 60, kEnough = 20'000;
  length = std::min(length, kEnough);
  double best = -1e9;
  int64_t lag = 0;
  for (int64_t shift = -kFurthest; shift <= kFurthest; ++shift) {
    double sum = 0;
    for (int64_t i = kFurthest; i < length - kFurthest; ++i) sum += static_cast<double>(a[i]) * b[i + shift];
    if (sum > best) {
      best = sum;
      lag = shift;
    }
  }
  return lag;
}

/// Bursts of noise below a quarter of the rate: what aligns with itself at one place only.
Sound noise(int channels, int rate, double seconds, RandomStream& stream) {
  Sound sound = {.channels = channels, .rate = rate, .samples = {}};
  for (int c = 0; c < channels; ++c) {
    double low = 0, lower = 0;
    for (int64_t i = 0; i < std::llround(seconds * rate); ++i) {
      low += 0.4 * (stream.normal() - low);
      lower += 0.4 * (low - lower);
      sound.samples.push_back(static_cast<float>(0.3 * lower * (i / (rate / 8) % 2 == 0 ? 1 : 0.2)));
    }
  }
  return sound;
}

TEST(RoundTrip, KeepsFramesAndSoundOfAnySizeRateAndLength) {
  const testing::TempFolder folder;
  double worst = 1e9;
  for (uint64_t i = 0; i < 40; ++i) {
    SCOPED_TRACE(fmt::format("seed 11, clip {}", i));
    RandomStream stream({.seed = 11, .sample = i});
    const std::vector<Rational> rates = {{16, 1}, {24, 1}, {25, 1},        {30'000, 1001},
                                         {25, 2}, {60, 1}, {24'000, 1001}, {7, 1}};
    const std::vector<int> sound_rates = {8000, 16'000, 22'050, 32'000, 44'100, 48'000, 96'000};
    const ClipShape shape = {.count = 1 + static_cast<int64_t>(stream.below(60)),
                             .height = 2 + static_cast<int>(stream.below(120)),
                             .width = 2 + static_cast<int>(stream.below(120)),
                             .fps = rates[stream.below(rates.size())],
                             .channels = 1 + static_cast<int>(stream.below(2)),
                             .rate = sound_rates[stream.below(sound_rates.size())]};
    Clip clip = moving_disc(shape, i);
    clip.sound = noise(shape.channels, shape.rate, clip.frames_s(), stream);
    const auto path = folder.path() / "a.mp4";
    write_mp4(path, clip);
    const ReadResult read = decode_file(path, {.sample_rate = shape.rate, .min_seconds = 0});
    EXPECT_EQ(read.notes, std::vector<std::string>{});

    EXPECT_EQ(read.clip.frames.count, shape.count);
    if (shape.count > 1) {
      EXPECT_EQ(read.clip.fps, shape.fps);
    }
    EXPECT_NEAR(read.info.seconds, clip.frames_s(), 1e-3);
    const double quality = psnr(clip.frames, read.clip.frames);
    // H.264 at crf 18 with colours at half size, which pictures of a few pixels show more of.
    const bool small = std::min(shape.width, shape.height) < 24;
    EXPECT_GE(quality, small ? kSmallPsnr : kPsnr) << shape.width << " x " << shape.height;
    worst = std::min(worst, small ? worst : quality);

    ASSERT_EQ(read.clip.sound.rate, shape.rate);
    ASSERT_EQ(read.clip.sound.channels, 2);
    EXPECT_NEAR(static_cast<double>(read.clip.sound.length()), static_cast<double>(clip.sound.length()), 1);
    const int64_t length = std::min(read.clip.sound.length(), clip.sound.length());
    if (length < 2000) continue;
    for (int c = 0; c < 2; ++c) {
      const float* wrote = clip.sound.channel(std::min(c, shape.channels - 1));
      EXPECT_EQ(lag_of(wrote, read.clip.sound.channel(c), length), 0) << shape.rate << " Hz, channel " << c;
    }
  }
  std::printf("worst PSNR of 40 clips: %.1f dB\n", worst);
}

}  // namespace
}  // namespace unigrpo::media
