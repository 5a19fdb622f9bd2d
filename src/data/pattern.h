#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

namespace unigrpo::data {

/// A Perl-compatible regular expression (PCRE2) over UTF-8, without \C, that gives up after a million steps of the
/// matcher (about 10 ms): no text may hold a run up.
class Pattern {
 public:
  struct Options {
    bool dot_takes_line_breaks = false;
    bool unicode_classes = false;  // \w, \d and \b by Unicode's properties, not ASCII's
    bool invalid_utf8 = false;     // texts may have bytes that are none, which match nothing; else that is an Error
    uint32_t max_heap_kib = 0;     // of the matcher; 0: the library's bound
  };
  struct Match {
    size_t begin = 0, end = 0;  // \K in a lookaround may put the end before the begin
    bool has_group = true;      // false: the pattern has a first group, and it took no part in the match
    std::string_view group;     // what the first group matches, or all where the pattern has none
  };
  /// What PCRE2 says: of a pattern at byte `offset`, or of a text that cannot be searched.
  struct Error : std::runtime_error {
    Error(const std::string& message, size_t offset_in_pattern) : runtime_error(message), offset(offset_in_pattern) {}
    size_t offset;
  };

  /// Throws Error for a text that is no pattern.
  Pattern(const std::string& pattern, const Options& options);
  Pattern(Pattern&&) noexcept;
  ~Pattern();

  /// The first match from byte `at` on (above 0: of a text that was searched from 0 before, and found valid). Throws
  /// Error where the search gave up.
  std::optional<Match> search(std::string_view text, size_t at = 0) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace unigrpo::data
