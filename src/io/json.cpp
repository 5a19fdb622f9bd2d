#include "io/json.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "io/atomic_file.h"

namespace unigrpo::io {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

// Recursive descent over a text already known to be valid UTF-8; depth is bounded by the limits.
class Reader {
 public:
  Reader(std::string_view text, std::string_view where, const JsonLimits& limits, JsonEvents& events)
      : text_(text), where_(where), limits_(limits), events_(events) {}

  void read_document() {
    if (text_.starts_with("\xEF\xBB\xBF")) fail("byte order mark", 0);
    const size_t valid = valid_utf8_prefix(text_);
    if (valid < text_.size()) fail("not valid UTF-8", valid);
    skip_space();
    if (at_ == text_.size()) fail("empty, a value was expected", at_);
    read_value(1);
    skip_space();
    if (at_ < text_.size()) fail("trailing " + here() + " after the value", at_);
  }

 private:
  [[noreturn]] void fail(const std::string& what, size_t at) const {
    const auto line = 1 + std::count(text_.begin(), text_.begin() + static_cast<long>(at), '\n');
    // A row of a JSONL file has its line number in `where_`; a second one would confuse.
    if (text_.find('\n') == std::string_view::npos) {
      throw BadInput("{}: invalid JSON: {} at byte {}", where_, what, at);
    }
    throw BadInput("{}: invalid JSON: {} at byte {}, line {}", where_, what, at, line);
  }

  bool next_is(char c) const { return at_ < text_.size() && text_[at_] == c; }

  std::string here() const {
    if (at_ == text_.size()) return "end of text";
    size_t end = at_ + 1;
    while (end < text_.size() && (text_[end] & 0xC0) == 0x80) ++end;  // the rest of a character
    if (is_letter(text_[at_])) {                                      // a whole word: NaN, undefined, True
      while (end < text_.size() && is_letter(text_[end])) ++end;
    }
    return in_quotes(text_.substr(at_, end - at_));
  }

  void skip_space() {
    while (at_ < text_.size() &&
           (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) {
      ++at_;
    }
  }

  void count_value() {
    if (++num_values_ > limits_.max_values) {
      fail(fmt::format("more than {} values", limits_.max_values), at_);
    }
  }

  void read_value(int depth) {
    count_value();
    if (at_ == text_.size()) fail("unexpected end, a value was expected", at_);
    const char c = text_[at_];
    if (c == '{') return read_object(depth);
    if (c == '[') return read_array(depth);
    if (c == '"') return events_.string(read_string());
    if (c == '-' || is_digit(c)) return read_number();
    if (take_word("true")) return events_.boolean(true);
    if (take_word("false")) return events_.boolean(false);
    if (take_word("null")) return events_.null();
    fail("unexpected " + here() + ", a value was expected" + for_key(), at_);
  }

  // For faults of a value: the key that it, or the list it is in, belongs to.
  std::string for_key() const { return last_key_.empty() ? std::string() : " for " + in_quotes(last_key_, 40); }

  bool take_word(std::string_view word) {
    if (!text_.substr(at_).starts_with(word)) return false;
    at_ += word.size();
    return true;
  }

  void enter(int depth) {
    if (depth > limits_.max_depth) {
      fail(fmt::format("nested deeper than {} levels", limits_.max_depth), at_);
    }
    ++at_;
    skip_space();
  }

  void read_object(int depth) {
    enter(depth);
    events_.start_object();
    std::unordered_set<std::string> names;
    bool more = !next_is('}');
    while (more) {
      if (!next_is('"')) fail("unexpected " + here() + ", a key in double quotes was expected", at_);
      const size_t key_at = at_;
      count_value();
      std::string name = read_string();
      const std::string_view key_text = text_.substr(key_at + 1, at_ - key_at - 2);
      if (!names.insert(name).second) fail("duplicate key " + in_quotes(name), key_at);
      events_.key(std::move(name));
      skip_space();
      if (!next_is(':')) fail("unexpected " + here() + ", ':' was expected", at_);
      ++at_;
      skip_space();
      last_key_ = key_text;
      read_value(depth + 1);
      more = read_separator('}');
    }
    ++at_;
    events_.end_object();
  }

  void read_array(int depth) {
    enter(depth);
    events_.start_array();
    bool more = !next_is(']');
    while (more) {
      read_value(depth + 1);
      more = read_separator(']');
    }
    ++at_;
    events_.end_array();
  }

  // True after a comma, false in front of the closing bracket.
  bool read_separator(char closing) {
    skip_space();
    if (next_is(closing)) return false;
    if (!next_is(',')) {
      fail(fmt::format("unexpected {}, ',' or '{}' was expected", here(), closing), at_);
    }
    ++at_;
    skip_space();
    return true;
  }

  std::string read_string() {
    const size_t opened_at = at_++;
    std::string value;
    while (true) {
      size_t end = at_;
      while (end < text_.size() && text_[end] != '"' && text_[end] != '\\' &&
             static_cast<uint8_t>(text_[end]) >= 0x20) {
        ++end;
      }
      value.append(text_, at_, end - at_);
      at_ = end;
      if (at_ == text_.size()) fail("string without end", opened_at);
      if (static_cast<uint8_t>(text_[at_]) < 0x20) {
        fail("control character " + here() + " in a string", at_);
      }
      if (text_[at_++] == '"') return value;
      read_escape(value);
    }
  }

  void read_escape(std::string& value) {
    const size_t escape_at = at_ - 1;
    if (at_ == text_.size()) fail("string without end", escape_at);
    static constexpr std::string_view kNames = "\"\\/bfnrt";
    static constexpr std::string_view kValues = "\"\\/\b\f\n\r\t";
    const char c = text_[at_++];
    if (const size_t index = kNames.find(c); index != std::string_view::npos) {
      value += kValues[index];
      return;
    }
    if (c != 'u') fail("unknown escape in a string", escape_at);
    uint32_t code = read_hex4(escape_at);
    if (code >= 0xDC00 && code <= 0xDFFF) fail("lone surrogate in a string", escape_at);
    if (code >= 0xD800 && code <= 0xDBFF) {
      if (!take_word("\\u")) fail("lone surrogate in a string", escape_at);
      const uint32_t low = read_hex4(escape_at);
      if (low < 0xDC00 || low > 0xDFFF) fail("lone surrogate in a string", escape_at);
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    append_utf8(value, code);
  }

  uint32_t read_hex4(size_t escape_at) {
    uint32_t code = 0;
    const std::string_view digits = text_.substr(at_, 4);
    const char* end = digits.data() + digits.size();
    const auto [stop, error] = std::from_chars(digits.data(), end, code, 16);
    if (digits.size() < 4 || error != std::errc() || stop != end) {
      fail("\\u needs four hexadecimal digits", escape_at);
    }
    at_ += 4;
    return code;
  }

  static void append_utf8(std::string& value, uint32_t code) {
    const auto put = [&](uint32_t byte) { value += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6);
      put(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12);
      put(0x80 | (code >> 6 & 0x3F));
      put(0x80 | (code & 0x3F));
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3F));
      put(0x80 | (code >> 6 & 0x3F));
      put(0x80 | (code & 0x3F));
    }
  }

  void skip_digits() {
    if (at_ == text_.size() || !is_digit(text_[at_])) {
      fail("unexpected " + here() + ", a digit was expected" + for_key(), at_);
    }
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  }

  void read_number() {
    const size_t begin = at_;
    const bool negative = next_is('-');
    if (negative) ++at_;
    if (next_is('0')) {
      ++at_;
      if (at_ < text_.size() && is_digit(text_[at_])) fail("number with a leading zero", begin);
    } else {
      skip_digits();
    }
    bool integer = true;
    if (next_is('.')) {
      integer = false;
      ++at_;
      skip_digits();
    }
    if (next_is('e') || next_is('E')) {
      integer = false;
      ++at_;
      if (next_is('+') || next_is('-')) ++at_;
      skip_digits();
    }
    const std::string_view digits = text_.substr(begin, at_ - begin);
    if (!integer) return events_.real(to_real(digits, begin));
    if (negative) {
      if (const auto value = to_integer<int64_t>(digits)) return events_.negative_integer(*value);
    } else {
      if (const auto value = to_integer<uint64_t>(digits)) return events_.unsigned_integer(*value);
    }
    if (limits_.wide_integers) return events_.real(to_real(digits, begin));
    fail("integer " + in_quotes(digits, 40) + " does not fit in 64 bits" + for_key(), begin);
  }

  template <typename Integer>
  static std::optional<Integer> to_integer(std::string_view digits) {
    Integer value = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    return error == std::errc() ? std::optional(value) : std::nullopt;
  }

  double to_real(std::string_view digits, size_t begin) const {
    double value = 0;
    const auto [stop, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    // from_chars reports a result too small for double in the same way as one too large.
    if (error != std::errc()) value = std::strtod(std::string(digits).c_str(), nullptr);
    if (!std::isfinite(value)) {
      fail("number " + in_quotes(digits, 40) + " is out of range" + for_key(), begin);
    }
    return value;
  }

  std::string_view text_;
  std::string_view where_;
  const JsonLimits& limits_;
  JsonEvents& events_;
  size_t at_ = 0;
  size_t num_values_ = 0;
  std::string_view last_key_;  // as it stands in the text
};

class TreeBuilder final : public JsonEvents {
 public:
  nlohmann::json root;

  void start_object() override { open_.push_back(&place(nlohmann::json::object())); }
  void key(std::string&& name) override { key_ = std::move(name); }
  void end_object() override { open_.pop_back(); }
  void start_array() override { open_.push_back(&place(nlohmann::json::array())); }
  void end_array() override { open_.pop_back(); }
  void string(std::string&& value) override { place(std::move(value)); }
  void unsigned_integer(uint64_t value) override { place(value); }
  void negative_integer(int64_t value) override { place(value); }
  void real(double value) override { place(value); }
  void boolean(bool value) override { place(value); }
  void null() override { place(nullptr); }

 private:
  // Pointers into open_ stay valid: only the innermost open value ever grows.
  template <typename Value>
  nlohmann::json& place(Value&& value) {
    if (open_.empty()) return root = std::forward<Value>(value);
    nlohmann::json& parent = *open_.back();
    if (parent.is_array()) return parent.emplace_back(std::forward<Value>(value));
    return parent[std::move(key_)] = std::forward<Value>(value);
  }

  std::vector<nlohmann::json*> open_;
  std::string key_;
};

}  // namespace

void read_json(std::string_view text, std::string_view where, const JsonLimits& limits, JsonEvents& events) {
  Reader(text, where, limits, events).read_document();
}

nlohmann::json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits) {
  TreeBuilder tree;
  read_json(text, where, limits, tree);
  return std::move(tree.root);
}

nlohmann::json read_json_file(const std::filesystem::path& path, const JsonLimits& limits, size_t max_bytes) {
  return parse_json(read_text_file(path, max_bytes), path.string(), limits);
}

}  // namespace unigrpo::io
