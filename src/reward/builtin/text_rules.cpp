#include "reward/builtin/text_rules.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "data/pattern.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

using data::Pattern;

Pattern compiled(const std::string& text) try {
  return {text, {.dot_takes_line_breaks = true, .invalid_utf8 = true}};
} catch (const Pattern::Error& error) {
  throw BadInput("rewards: pattern {}: expected a regular expression: {} (at byte {})", in_quotes(text), error.what(),
                 error.offset);
}

class TextRulesReward : public Reward {
 public:
  explicit TextRulesReward(const TextRulesConfig& config) : config_(config), pattern_(compiled(config.pattern)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [this](const data::Sample& sample) { return score_one(sample); });
  }

  std::vector<std::string> dimensions() const override { return {"rules", "overlong"}; }

 private:
  Score score_one(const data::Sample& sample) const {
    const auto text = std::find_if(sample.segments.begin(), sample.segments.end(),
                                   [](const auto& segment) { return segment.kind == data::SegmentKind::text; });
    if (text == sample.segments.end())
      return {.value = 0.0, .reason = "no text", .parts = {{"rules", 0}, {"overlong", 0}}};
    const std::string fault = fault_of(*text);
    const double rules = fault.empty() ? 1.0 : 0.0;
    const double overlong = overlong_of(text->num_tokens);
    return {.value = rules + overlong, .reason = fault, .parts = {{"rules", rules}, {"overlong", overlong}}};
  }

  std::string fault_of(const data::SampleSegment& text) const {
    if (text.num_tokens < config_.min_tokens) {
      return fmt::format("{} tokens, expected at least {}", text.num_tokens, config_.min_tokens);
    }
    try {
      return pattern_.search(text.text) ? "" : "the pattern is not in the text";
    } catch (const Pattern::Error& error) {
      throw BadInput("the pattern could not be searched: {}", error.what());
    }
  }

  double overlong_of(int64_t length) const {
    if (config_.max_tokens == 0) return 0;
    const int64_t over = length - (config_.max_tokens - config_.overlong_cache);
    if (over <= 0) return 0;
    if (length > config_.max_tokens) return -1;
    return -static_cast<double>(over) / static_cast<double>(config_.overlong_cache);
  }

  TextRulesConfig config_;
  Pattern pattern_;
};

}  // namespace

std::unique_ptr<Reward> make_text_rules_reward(const TextRulesConfig& config) {
  return std::make_unique<TextRulesReward>(config);
}

}  // namespace unigrpo::reward
