#include "reward/builtin/format.h"

#include <algorithm>
#include <string_view>

namespace unigrpo::reward {
namespace {

constexpr std::string_view kOpen = "<think>", kClose = "</think>", kBlank = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

/// Empty where the text is one thought, else what is wrong with it.
std::string fault_of(const data::SampleSegment& segment) {
  std::string_view text = trimmed(segment.text);
  if (!segment.finished) return "the text did not end";
  if (!text.starts_with(kOpen)) return "no <think> at the start";
  if (!text.ends_with(kClose)) return "no </think> at the end";
  text.remove_prefix(kOpen.size());
  const size_t close = text.find(kClose);
  if (close == std::string_view::npos || close + kClose.size() != text.size() || text.find(kOpen) < close) {
    return "more than one thought";
  }
  return trimmed(text.substr(0, close)).empty() ? "an empty thought" : "";
}

class FormatReward : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores;
    scores.reserve(samples.size());
    for (const data::Sample& sample : samples) {
      const auto text =
          std::find_if(sample.segments.begin(), sample.segments.end(),
                       [](const data::SampleSegment& segment) { return segment.kind == data::SegmentKind::text; });
      const std::string fault = text == sample.segments.end() ? "no text" : fault_of(*text);
      scores.push_back({.value = fault.empty() ? 1.0 : 0.0, .reason = fault, .parts = {}});
    }
    return scores;
  }
};

}  // namespace

std::unique_ptr<Reward> make_format_reward() { return std::make_unique<FormatReward>(); }

}  // namespace unigrpo::reward
