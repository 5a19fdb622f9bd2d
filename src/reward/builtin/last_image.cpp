#include "reward/builtin/last_image.h"

#include <algorithm>
#include <cstdint>
#include <functional>

#include "data/sample_statistics.h"
#include "io/image_codec.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

class LastImageReward : public Reward {
 public:
  explicit LastImageReward(std::function<double(const Image&)> measure) : measure_(std::move(measure)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [this](const data::Sample& sample) -> Score {
      const Image* image = sample.last_image();
      if (image == nullptr || !is_whole(*image)) return {.value = std::nullopt, .reason = "no image", .parts = {}};
      return {.value = measure_(*image), .reason = "", .parts = {}};
    });
  }

 private:
  std::function<double(const Image&)> measure_;
};

/// S = (max - min) / max over a pixel's channels, 0 for black.
double mean_saturation(const Image& image) {
  const std::vector<uint8_t>& pixels = image.pixels;
  double sum = 0;
  for (size_t i = 0; i + 2 < pixels.size(); i += 3) {
    const auto [low, high] = std::minmax({pixels[i], pixels[i + 1], pixels[i + 2]});
    if (high > 0) sum += static_cast<double>(high - low) / high;
  }
  return sum / static_cast<double>(pixels.size() / 3);
}

}  // namespace

std::unique_ptr<Reward> make_brightness_reward() { return std::make_unique<LastImageReward>(data::brightness); }

std::unique_ptr<Reward> make_jpeg_reward(JpegPrefer prefer) {
  return std::make_unique<LastImageReward>([sign = prefer == JpegPrefer::small ? -1.0 : 1.0](const Image& image) {
    return sign * static_cast<double>(io::encode_image(image, io::ImageFormat::jpeg).size()) / 1000;
  });
}

std::unique_ptr<Reward> make_saturation_reward() { return std::make_unique<LastImageReward>(mean_saturation); }

}  // namespace unigrpo::reward
