#include "reward/http/reply_number.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <charconv>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "reward/http/endpoint.h"

namespace unigrpo::reward {
namespace {

constexpr uint32_t kMatchLimit = 1'000'000;  // backtracking steps: a reply may not hold the run up
constexpr uint32_t kHeapLimitKib = 64U << 10;

/// The inside of the first ``` fence, or all of it where there is none.
std::string_view without_fence(std::string_view text) {
  constexpr std::string_view kFence = "```";
  const size_t open = text.find(kFence);
  if (open == std::string_view::npos) return text;
  const size_t begin = text.find('\n', open);
  const size_t close = begin == std::string_view::npos ? begin : text.find(kFence, begin);
  return close == std::string_view::npos ? text : text.substr(begin, close - begin);
}

class PointerNumber : public ReplyNumber {
 public:
  explicit PointerNumber(const std::string& pointer) try : pointer_(pointer) {
  } catch (const nlohmann::json::exception&) {
    throw BadInput("http.score_pointer: {} is no JSON pointer", in_quotes(pointer));
  }

  double in(std::string_view reply) const override {
    const nlohmann::json json = parse_reply(without_fence(reply), "the reply");
    const auto* found = find(json);
    if (found == nullptr) throw BadInput("the reply has no '{}'", pointer_.to_string());
    if (!found->is_number()) throw BadInput("the reply's '{}' is no number", pointer_.to_string());
    return found->get<double>();
  }

 private:
  const nlohmann::json* find(const nlohmann::json& json) const {
    try {
      return &json.at(pointer_);
    } catch (const nlohmann::json::exception&) {
      return nullptr;
    }
  }

  nlohmann::json::json_pointer pointer_;
};

class PatternNumber : public ReplyNumber {
 public:
  explicit PatternNumber(const std::string& pattern) {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                              PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr));
    if (!code_) throw BadInput("http.score_regex: {} at {}: {}", in_quotes(pattern), offset, message(error));
    limits_.reset(pcre2_match_context_create(nullptr));
    match_.reset(pcre2_match_data_create_from_pattern(code_.get(), nullptr));
    if (!limits_ || !match_) throw RuntimeFailure("out of memory for a pattern");
    pcre2_pattern_info(code_.get(), PCRE2_INFO_CAPTURECOUNT, &num_groups_);
    pcre2_set_match_limit(limits_.get(), kMatchLimit);
    pcre2_set_heap_limit(limits_.get(), kHeapLimitKib);
  }

  double in(std::string_view reply) const override {
    const int count = pcre2_match(code_.get(), reinterpret_cast<PCRE2_SPTR>(reply.data()), reply.size(), 0, 0, match_.get(),
                                  limits_.get());
    if (count == PCRE2_ERROR_NOMATCH) throw BadInput("the reply has nothing that http.score_regex matches");
    if (count < 0) throw BadInput("http.score_regex gave up on the reply: {}", message(count));
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_.get()) + (num_groups_ > 0 ? 2 : 0);
    if (range[0] == PCRE2_UNSET || range[1] < range[0]) {
      throw BadInput("the first group of http.score_regex is not in the reply");
    }
    return number_in(reply.substr(range[0], range[1] - range[0]));
  }

 private:
  template <auto function>
  struct Free {
    template <typename T>
    void operator()(T* pointer) const {
      function(pointer);
    }
  };

  static std::string message(int error) {
    PCRE2_UCHAR text[256];
    pcre2_get_error_message(error, text, sizeof(text));
    return reinterpret_cast<const char*>(text);
  }

  static double number_in(std::string_view text) {
    std::string_view digits = text;
    while (digits.starts_with(' ') || digits.starts_with('+')) digits.remove_prefix(1);
    while (digits.ends_with(' ')) digits.remove_suffix(1);
    double number = 0;
    const auto [end, failure] = std::from_chars(digits.data(), digits.data() + digits.size(), number);
    if (failure != std::errc() || end != digits.data() + digits.size() || !std::isfinite(number)) {
      throw BadInput("http.score_regex found {}, which is no number", in_quotes(text));
    }
    return number;
  }

  uint32_t num_groups_ = 0;
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code_;
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> limits_;
  std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> match_;
};

}  // namespace

std::unique_ptr<ReplyNumber> number_at_pointer(const std::string& pointer) {
  return std::make_unique<PointerNumber>(pointer);
}

std::unique_ptr<ReplyNumber> number_by_pattern(const std::string& pattern) {
  return std::make_unique<PatternNumber>(pattern);
}

}  // namespace unigrpo::reward
