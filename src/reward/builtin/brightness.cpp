#include "reward/builtin/brightness.h"

#include "data/sample_statistics.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

class BrightnessReward : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [](const data::Sample& sample) -> Score {
      const Image* image = sample.last_image();
      if (image == nullptr || !is_whole(*image)) return {.value = std::nullopt, .reason = "no image", .parts = {}};
      return {.value = data::brightness(*image), .reason = "", .parts = {}};
    });
  }

  std::string missing_metadata(const std::string&) const override { return ""; }
};

}  // namespace

std::unique_ptr<Reward> make_brightness_reward() { return std::make_unique<BrightnessReward>(); }

}  // namespace unigrpo::reward
