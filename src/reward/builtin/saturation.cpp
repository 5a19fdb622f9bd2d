#include "reward/builtin/saturation.h"

#include <algorithm>
#include <cstdint>
#include <optional>

namespace unigrpo::reward {
namespace {

/// S = (max - min) / max over a pixel's channels, 0 for black.
double mean_saturation(const std::vector<uint8_t>& pixels) {
  double sum = 0;
  for (size_t i = 0; i + 2 < pixels.size(); i += 3) {
    const auto [low, high] = std::minmax({pixels[i], pixels[i + 1], pixels[i + 2]});
    if (high > 0) sum += static_cast<double>(high - low) / high;
  }
  return sum / static_cast<double>(pixels.size() / 3);
}

class SaturationReward : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores;
    scores.reserve(samples.size());
    for (const data::Sample& sample : samples) {
      const Image* image = sample.last_image();
      if (image == nullptr || image->pixels.size() < 3) {
        scores.push_back({.value = std::nullopt, .reason = "no image", .parts = {}});
      } else {
        scores.push_back({.value = mean_saturation(image->pixels), .reason = "", .parts = {}});
      }
    }
    return scores;
  }

  std::string missing_metadata(const std::string&) const override { return ""; }
};

}  // namespace

std::unique_ptr<Reward> make_saturation_reward() { return std::make_unique<SaturationReward>(); }

}  // namespace unigrpo::reward
