#include "recipe/guard.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/text.h"

namespace unigrpo::recipe {

namespace {

// toml++ 3.3.0 recurses for every part of a dotted key and dies at some tens of thousands; no
// recipe needs more than a few.
constexpr size_t kMaxNesting = 32;

bool is_non_ascii(char c) { return static_cast<unsigned char>(c) >= 0x80; }

/// Walks the text once, past strings and comments, and stops at what toml++ must not see: keys or
/// brackets that nest too deep, and characters beyond ASCII where it looks for blanks.
class Guard {
 public:
  explicit Guard(std::string_view text) : text_(text) {
    if (text_.starts_with("\xEF\xBB\xBF")) index_ = 3;  // a byte order mark
  }

  std::optional<Trouble> run() {
    while (index_ < text_.size()) {
      const char c = text_[index_];
      if (c == '\n') {
        end_line();
      } else if (c == '#') {
        skip_comment();
        continue;
      } else if (c == '"' || c == '\'') {
        if (!may_quote()) return trouble_here("not TOML: a quote out of place");
        if (auto trouble = skip_string(c)) return trouble;
        previous_ = c;
        continue;
      } else if (is_non_ascii(c)) {
        // Besides being wrong it is undefined behaviour in toml++ 3.3.0 (its test for a blank).
        return trouble_here("not TOML: a non-ASCII character outside of strings and comments");
      } else if (auto trouble = structural(c)) {
        return trouble;
      }
      step();
    }
    return std::nullopt;
  }

 private:
  void step() {
    // A column is a code point, as in the TOML library's own messages.
    if ((static_cast<unsigned char>(text_[index_]) & 0xC0) != 0x80) ++column_;
    ++index_;
  }

  void end_line() {
    ++line_;
    column_ = 0;  // step() passes the line feed
    dots_ = 0;
    if (header_) open_.clear();  // a header never goes on in the next line
    header_ = false;
    if (open_.empty()) value_ = false;
    previous_ = '\n';
  }

  void skip_comment() {
    while (index_ < text_.size() && text_[index_] != '\n') step();
  }

  std::optional<Trouble> skip_string(char quote) {
    const std::string triple(3, quote);
    const bool multiline = text_.substr(index_, 3) == triple;
    for (int i = 0; i < (multiline ? 3 : 1); ++i) step();
    while (index_ < text_.size()) {
      const char c = text_[index_];
      if (c == '\n') {
        if (!multiline) return std::nullopt;
        ++line_;
        column_ = 0;
      } else if (c == '\\' && quote == '"') {
        step();
        if (multiline) {
          if (auto trouble = skip_line_ending_backslash()) return trouble;
        } else if (index_ < text_.size() && text_[index_] != '\n') {
          step();
        }
        continue;
      } else if (multiline ? text_.substr(index_, 3) == triple : c == quote) {
        for (int i = 0; i < (multiline ? 3 : 1); ++i) step();
        // Two more quotes may belong to the text of a multi-line string.
        for (int i = 0; multiline && i < 2 && index_ < text_.size() && text_[index_] == quote; ++i) step();
        return std::nullopt;
      }
      step();
    }
    return std::nullopt;
  }

  /// What follows a backslash in a multi-line string: one escaped character, or blanks and line
  /// ends that the string leaves out. toml++ tests what comes next for being a blank, and does so
  /// with undefined behaviour where it is not ASCII.
  std::optional<Trouble> skip_line_ending_backslash() {
    bool skipped = false;
    while (index_ < text_.size() && std::string_view(" \t\r\n").find(text_[index_]) != std::string_view::npos) {
      if (text_[index_] == '\n') {
        ++line_;
        column_ = 0;
      }
      step();
      skipped = true;
    }
    if (index_ == text_.size()) return std::nullopt;
    if (is_non_ascii(text_[index_])) return trouble_here("not TOML: a non-ASCII character after a backslash");
    if (!skipped) step();
    return std::nullopt;
  }

  std::optional<Trouble> structural(char c) {
    if (c == ' ' || c == '\t' || c == '\r') return std::nullopt;
    if (c == '.' && static_cast<size_t>(++dots_) >= kMaxNesting) return too_deep("parts in a dotted key");
    if (c == '=' || c == ',' || c == '{' || c == '[') dots_ = 0;
    if (c == '[' && previous_ == '\n' && open_.empty()) {
      header_ = true;
      if (auto trouble = check_header()) return trouble;
    }
    if (c == '[' || c == '{') {
      if (open_.size() == kMaxNesting) return too_deep("brackets inside one another");
      open_ += c;
    } else if ((c == ']' || c == '}') && !open_.empty()) {
      open_.pop_back();
    }
    if (c == '=' || c == ']' || c == '}') value_ = true;
    if (c == '{' || (c == ',' && !open_.empty() && open_.back() == '{')) value_ = false;
    previous_ = c;
    return std::nullopt;
  }

  /// Whether a string may begin here: as a part of a key or as a whole value. Elsewhere toml++
  /// takes the quote for a part of a bare value, and what follows is no string for it.
  bool may_quote() const {
    const bool in_key = header_ || (!value_ && (open_.empty() || open_.back() == '{'));
    return std::string_view("\n=,[{").find(previous_) != std::string_view::npos || (previous_ == '.' && in_key);
  }

  /// toml++ 3.3.0 asserts (and in a release build assumes) that a key follows the brackets.
  std::optional<Trouble> check_header() const {
    size_t next = text_.find_first_not_of(" \t", index_ + 1);
    if (next != std::string_view::npos && text_[next] == '[') next = text_.find_first_not_of(" \t", next + 1);
    if (next == std::string_view::npos) return std::nullopt;
    const char c = text_[next];
    if (is_bare_key_character(c) || c == '"' || c == '\'' || c == ']') return std::nullopt;
    const auto offset = static_cast<int64_t>(next - index_);
    return Trouble{{line_, column_ + offset}, "not TOML: expected a key after the bracket"};
  }

  Trouble trouble_here(std::string message) const { return {{line_, column_}, std::move(message)}; }
  Trouble too_deep(const char* what) const { return trouble_here(fmt::format("more than {} {}", kMaxNesting, what)); }

  std::string_view text_;
  size_t index_ = 0;
  int64_t line_ = 1;
  int64_t column_ = 1;
  int dots_ = 0;
  std::string open_;      // brackets that are open
  bool header_ = false;   // inside [a.b] or [[a.b]]
  bool value_ = false;    // right of '=', and not yet at the next key
  char previous_ = '\n';  // not a blank, outside of strings (a string is its quote)
};

std::optional<Trouble> find_bad_byte(std::string_view text) {
  if (is_valid_utf8(text)) return std::nullopt;
  // The first line that is not UTF-8; line feeds are never part of a longer sequence.
  int64_t line = 1;
  while (true) {
    const size_t end = std::min(text.find('\n'), text.size());
    std::string_view row = text.substr(0, end);
    if (!is_valid_utf8(row)) {
      int64_t column = 1;
      for (size_t i = 0; i < row.size();) {
        size_t length = 1;
        while (length <= 4 && i + length <= row.size() && !is_valid_utf8(row.substr(i, length))) ++length;
        if (length > 4 || i + length > row.size()) break;
        i += length;
        ++column;
      }
      return Trouble{{line, column}, "not UTF-8"};
    }
    if (end == text.size()) return Trouble{{line, 1}, "not UTF-8"};
    text.remove_prefix(end + 1);
    ++line;
  }
}

}  // namespace

bool is_bare_key_character(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
}

std::optional<Trouble> find_hazard(std::string_view text) {
  if (auto trouble = find_bad_byte(text)) return trouble;
  return Guard(text).run();
}

}  // namespace unigrpo::recipe
