#pragma once

#include <memory>
#include <string>
#include <string_view>

namespace unigrpo::reward {

/// Takes the one number out of what a judge wrote.
class ReplyNumber {
 public:
  virtual ~ReplyNumber() = default;
  /// Throws BadInput saying what the reply lacks.
  virtual double in(std::string_view reply) const = 0;
};

/// The number at a JSON pointer (RFC 6901) of a reply that is JSON, with or without a Markdown fence (```json) around
/// it. Throws BadInput for a pointer that is none.
std::unique_ptr<ReplyNumber> number_at_pointer(const std::string& pointer);

/// The number that a regular expression (PCRE2, UTF-8) matches first: its first group, or all of it where it has none.
/// Throws BadInput for a pattern that is none.
std::unique_ptr<ReplyNumber> number_by_pattern(const std::string& pattern);

}  // namespace unigrpo::reward
