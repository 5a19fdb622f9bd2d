#include "reward/builtin/jpeg.h"

#include "io/image_codec.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

class JpegReward : public Reward {
 public:
  explicit JpegReward(double sign) : sign_(sign) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [this](const data::Sample& sample) -> Score {
      const Image* image = sample.last_image();
      if (image == nullptr || !is_whole(*image)) return {.value = std::nullopt, .reason = "no image", .parts = {}};
      const size_t bytes = io::encode_image(*image, io::ImageFormat::jpeg).size();
      return {.value = sign_ * static_cast<double>(bytes) / 1000, .reason = "", .parts = {}};
    });
  }

  std::string missing_metadata(const std::string&) const override { return ""; }

 private:
  double sign_;
};

}  // namespace

std::unique_ptr<Reward> make_jpeg_reward(JpegPrefer prefer) {
  return std::make_unique<JpegReward>(prefer == JpegPrefer::small ? -1.0 : 1.0);
}

}  // namespace unigrpo::reward
