// Rewards a sharp image by the variance v of its Laplacian (Pech-Pacheco et al., 2000): v / (v + scale), so that half
// the reward is reached at v = `scale`. A second dimension is the contrast of the grey image.
#include <cstdint>
#include <opencv2/core.hpp>
#include <opencv2/imgproc.hpp>
#include <stdexcept>
#include <unigrpo/reward.hpp>
#include <vector>

namespace {

double variance(const cv::Mat& values) {
  cv::Scalar mean, deviation;
  cv::meanStdDev(values, mean, deviation);
  return deviation[0] * deviation[0];
}

class Sharpness : public unigrpo::Reward {
 public:
  explicit Sharpness(const unigrpo::Settings& settings) : scale_(settings.number("scale", 500)) {
    if (!(scale_ > 0)) throw std::runtime_error("expected scale > 0");
    cv::setNumThreads(1);  // the trainer keeps the cores busy
  }

  unigrpo::Options options() const override {
    unigrpo::Options options;
    options.batch_size = 16;
    options.dimensions = {{"sharpness", 0, 1}, {"contrast", 0, 1}};
    return options;
  }

  std::vector<unigrpo::Score> score(const unigrpo::Samples& samples) override {
    std::vector<unigrpo::Score> scores;
    for (const unigrpo::Sample& sample : samples) {
      const unigrpo::Image* image = sample.last_image();
      scores.push_back(image == nullptr ? unigrpo::Score::missing("no image") : score_image(*image));
    }
    return scores;
  }

 private:
  unigrpo::Score score_image(const unigrpo::Image& image) const {
    // A view: the pixels are the trainer's, and are not written to.
    const cv::Mat rgb(image.height, image.width, CV_8UC3, const_cast<uint8_t*>(image.pixels),
                      static_cast<size_t>(image.row_stride));
    cv::Mat grey, edges;
    cv::cvtColor(rgb, grey, cv::COLOR_RGB2GRAY);
    cv::Laplacian(grey, edges, CV_32F);
    const double v = variance(edges);
    const double contrast = variance(grey) / (127.5 * 127.5);  // 1: half black, half white
    return unigrpo::Score(v / (v + scale_)).set("contrast", contrast < 1 ? contrast : 1);
  }

  double scale_;
};

}  // namespace

UNIGRPO_REWARD_PLUGIN(Sharpness, "sharpness")
