// Rewards a reasoning text of the wanted length: 1 between `min` and `max` tokens, and towards 0 outside of them,
// reached `margin` tokens away.
#include <algorithm>
#include <stdexcept>
#include <string>
#include <unigrpo/reward.hpp>
#include <vector>

namespace {

class TextLength : public unigrpo::Reward {
 public:
  explicit TextLength(const unigrpo::Settings& settings)
      : min_(settings.number("min", 8)), max_(settings.number("max", 32)), margin_(settings.number("margin", 8)) {
    if (!(0 <= min_ && min_ <= max_ && margin_ > 0))
      throw std::runtime_error("expected 0 <= min <= max and margin > 0");
  }

  unigrpo::Options options() const override {
    unigrpo::Options options;
    options.batch_size = 64;
    options.dimensions = {{"length", 0, 1}};
    return options;
  }

  std::vector<unigrpo::Score> score(const unigrpo::Samples& samples) override {
    std::vector<unigrpo::Score> scores;
    for (const unigrpo::Sample& sample : samples) scores.push_back(score_one(sample));
    return scores;
  }

 private:
  unigrpo::Score score_one(const unigrpo::Sample& sample) const {
    bool has_text = false;
    double tokens = 0;
    for (const unigrpo::Segment& segment : sample.segments) {
      if (segment.kind != unigrpo::Segment::Kind::text) continue;
      has_text = true;
      tokens += static_cast<double>(segment.num_tokens);
    }
    if (!has_text) return unigrpo::Score::missing("no text");
    const double away = std::max({0.0, min_ - tokens, tokens - max_});
    return unigrpo::Score(std::max(0.0, 1 - away / margin_)).note("tokens", std::to_string(static_cast<long>(tokens)));
  }

  double min_, max_, margin_;
};

}  // namespace

UNIGRPO_REWARD_PLUGIN(TextLength, "text_length")
