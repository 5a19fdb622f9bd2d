#include "reward/http/reply_number.h"

#include <charconv>
#include <cmath>
#include <cstdint>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"
#include "data/pattern.h"
#include "reward/http/endpoint.h"

namespace unigrpo::reward {
namespace {

using data::Pattern;

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
  explicit PatternNumber(const std::string& pattern) try : pattern_(pattern, {.max_heap_kib = kHeapLimitKib}) {
  } catch (const Pattern::Error& error) {
    throw BadInput("http.score_regex: {} at {}: {}", in_quotes(pattern), error.offset, error.what());
  }

  double in(std::string_view reply) const override {
    std::optional<Pattern::Match> match;
    try {
      match = pattern_.search(reply);
    } catch (const Pattern::Error& error) {
      throw BadInput("http.score_regex gave up on the reply: {}", error.what());
    }
    if (!match) throw BadInput("the reply has nothing that http.score_regex matches");
    if (!match->has_group) throw BadInput("the first group of http.score_regex is not in the reply");
    return number_in(match->group);
  }

 private:
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

  Pattern pattern_;
};

}  // namespace

std::unique_ptr<ReplyNumber> number_at_pointer(const std::string& pointer) {
  return std::make_unique<PointerNumber>(pointer);
}

std::unique_ptr<ReplyNumber> number_by_pattern(const std::string& pattern) {
  return std::make_unique<PatternNumber>(pattern);
}

}  // namespace unigrpo::reward
