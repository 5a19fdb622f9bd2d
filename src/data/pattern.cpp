#include "data/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>

#include "base/error.h"

namespace unigrpo::data {
namespace {

constexpr uint32_t kMaxSteps = 1'000'000;

template <auto function>
struct Free {
  template <typename T>
  void operator()(T* pointer) const {
    function(pointer);
  }
};

PCRE2_SPTR bytes(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Pattern::State {
  std::unique_ptr<pcre2_code, Free<pcre2_code_free>> code;
  std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>> limits;
  uint32_t num_groups = 0;
};

Pattern::Pattern(const std::string& pattern, const Options& options) : state_(std::make_unique<State>()) {
  int error = 0;
  PCRE2_SIZE offset = 0;
  const uint32_t flags = PCRE2_UTF | PCRE2_NEVER_BACKSLASH_C | (options.unicode_classes ? PCRE2_UCP : 0) |
                         (options.dot_takes_line_breaks ? PCRE2_DOTALL : 0) |
                         (options.invalid_utf8 ? PCRE2_MATCH_INVALID_UTF : 0);
  state_->code.reset(pcre2_compile(bytes(pattern), pattern.size(), flags, &error, &offset, nullptr));
  if (!state_->code) throw Error(message_of(error), offset);
  state_->limits.reset(pcre2_match_context_create(nullptr));
  if (!state_->limits) throw RuntimeFailure("out of memory for a pattern");
  pcre2_pattern_info(state_->code.get(), PCRE2_INFO_CAPTURECOUNT, &state_->num_groups);
  pcre2_set_match_limit(state_->limits.get(), kMaxSteps);
  if (options.max_heap_kib > 0) pcre2_set_heap_limit(state_->limits.get(), options.max_heap_kib);
}

Pattern::Pattern(Pattern&&) noexcept = default;
Pattern::~Pattern() = default;

std::optional<Pattern::Match> Pattern::search(std::string_view text, size_t at) const {
  const std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>> found(
      pcre2_match_data_create_from_pattern(state_->code.get(), nullptr));
  if (!found) throw RuntimeFailure("out of memory for a pattern");
  const int count = pcre2_match(state_->code.get(), bytes(text), text.size(), at, at > 0 ? PCRE2_NO_UTF_CHECK : 0,
                                found.get(), state_->limits.get());
  if (count == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (count < 0) throw Error(message_of(count), 0);
  const PCRE2_SIZE* all = pcre2_get_ovector_pointer(found.get());
  const PCRE2_SIZE* range = all + (state_->num_groups > 0 ? 2 : 0);
  Match match{
      .begin = all[0], .end = all[1], .has_group = range[0] != PCRE2_UNSET && range[1] >= range[0], .group = {}};
  if (match.has_group) match.group = text.substr(range[0], range[1] - range[0]);
  return match;
}

}  // namespace unigrpo::data
