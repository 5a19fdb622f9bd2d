#include "reward/builtin/text_rules.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "base/error.h"
#include "base/text.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

constexpr uint32_t kMaxSteps = 1'000'000;  // of the matcher: about 10 ms

struct Free {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
  void operator()(pcre2_match_data* match) const { pcre2_match_data_free(match); }
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

class Pattern {
 public:
  explicit Pattern(const std::string& text) {
    int code = 0;
    PCRE2_SIZE offset = 0;
    const auto options = PCRE2_UTF | PCRE2_MATCH_INVALID_UTF | PCRE2_DOTALL | PCRE2_NEVER_BACKSLASH_C;
    code_.reset(pcre2_compile(bytes(text), text.size(), options, &code, &offset, nullptr));
    if (!code_) {
      throw BadInput("reward.terms: pattern {}: expected a regular expression: {} (at byte {})", in_quotes(text),
                     message_of(code), offset);
    }
    match_.reset(pcre2_match_data_create(1, nullptr));
    context_.reset(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(context_.get(), kMaxSteps);
  }

  /// Throws BadInput for a text that cannot be searched.
  bool found_in(std::string_view text) const {
    const int code = pcre2_match(code_.get(), bytes(text), text.size(), 0, 0, match_.get(), context_.get());
    if (code == PCRE2_ERROR_NOMATCH) return false;
    if (code < 0) throw BadInput("the pattern could not be searched: {}", message_of(code));
    return true;
  }

 private:
  static PCRE2_SPTR bytes(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

  std::unique_ptr<pcre2_code, Free> code_;
  std::unique_ptr<pcre2_match_data, Free> match_;
  std::unique_ptr<pcre2_match_context, Free> context_;
};

class TextRulesReward : public Reward {
 public:
  explicit TextRulesReward(const TermConfig& term) : term_(term), pattern_(term.pattern) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [this](const data::Sample& sample) { return score_one(sample); });
  }

  std::string missing_metadata(const std::string&) const override { return ""; }

 private:
  Score score_one(const data::Sample& sample) const {
    const auto text = std::find_if(sample.segments.begin(), sample.segments.end(), [](const auto& segment) {
      return segment.kind == data::SampleSegment::Kind::text;
    });
    if (text == sample.segments.end()) return {.value = 0.0, .reason = "no text", .parts = {{"rules", 0}, {"overlong", 0}}};
    const std::string fault = fault_of(*text);
    const double rules = fault.empty() ? 1.0 : 0.0;
    const double overlong = overlong_of(text->num_tokens);
    return {.value = rules + overlong, .reason = fault, .parts = {{"rules", rules}, {"overlong", overlong}}};
  }

  std::string fault_of(const data::SampleSegment& text) const {
    if (text.num_tokens < term_.min_tokens) {
      return fmt::format("{} tokens, expected at least {}", text.num_tokens, term_.min_tokens);
    }
    return pattern_.found_in(text.text) ? "" : "the pattern is not in the text";
  }

  double overlong_of(int64_t length) const {
    if (term_.max_tokens == 0) return 0;
    const int64_t over = length - (term_.max_tokens - term_.overlong_cache);
    if (over <= 0) return 0;
    if (length > term_.max_tokens) return -1;
    return -static_cast<double>(over) / static_cast<double>(term_.overlong_cache);
  }

  TermConfig term_;
  Pattern pattern_;
};

}  // namespace

std::unique_ptr<Reward> make_text_rules_reward(const TermConfig& term) { return std::make_unique<TextRulesReward>(term); }

}  // namespace unigrpo::reward
