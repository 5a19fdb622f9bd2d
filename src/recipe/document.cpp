#include "recipe/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"

#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace unigrpo::recipe {

namespace {

// toml++ 3.3.0 recurses for every part of a dotted key and dies at some tens of thousands; no
// recipe needs more.
constexpr int kMaxDepth = 32;
constexpr size_t kMaxShown = 60;  // bytes of a value in a message

Position position_of(const toml::source_region& region) {
  return {static_cast<int64_t>(region.begin.line), static_cast<int64_t>(region.begin.column)};
}

struct Trouble {
  Position at;
  std::string message;
};

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
        if (auto trouble = skip_string(c)) return trouble;
        blank_line_ = false;
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
    if (header_) depth_ = 0;  // a header never goes on in the next line
    header_ = false;
    blank_line_ = true;
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
        for (int i = 0; multiline && i < 2 && index_ < text_.size() && text_[index_] == quote; ++i)
          step();
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
    while (index_ < text_.size() &&
           std::string_view(" \t\r\n").find(text_[index_]) != std::string_view::npos) {
      if (text_[index_] == '\n') {
        ++line_;
        column_ = 0;
      }
      step();
      skipped = true;
    }
    if (index_ == text_.size()) return std::nullopt;
    if (is_non_ascii(text_[index_]))
      return trouble_here("not TOML: a non-ASCII character after a backslash");
    if (!skipped) step();
    return std::nullopt;
  }

  std::optional<Trouble> structural(char c) {
    if (c == '.' && ++dots_ >= kMaxDepth) return too_deep("parts in a dotted key");
    if (c == '=' || c == ',' || c == '{' || c == '[') dots_ = 0;
    if (c == '[' && blank_line_ && depth_ == 0) header_ = true;
    if ((c == '[' || c == '{') && ++depth_ > kMaxDepth)
      return too_deep("brackets inside one another");
    if ((c == ']' || c == '}') && depth_ > 0) --depth_;
    if (c != ' ' && c != '\t' && c != '\r') blank_line_ = false;
    return std::nullopt;
  }

  Trouble trouble_here(std::string message) const { return {{line_, column_}, std::move(message)}; }
  Trouble too_deep(const char* what) const {
    return trouble_here(fmt::format("more than {} {}", kMaxDepth, what));
  }

  std::string_view text_;
  size_t index_ = 0;
  int64_t line_ = 1;
  int64_t column_ = 1;
  int depth_ = 0;
  int dots_ = 0;
  bool header_ = false;     // inside [a.b] or [[a.b]]
  bool blank_line_ = true;  // nothing but blanks so far
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
        while (length <= 4 && i + length <= row.size() && !is_valid_utf8(row.substr(i, length)))
          ++length;
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

Node convert(const toml::node& node);

Table convert_table(const toml::table& table) {
  Table entries;
  for (const auto& [key, value] : table) {
    entries.push_back({std::string(key.str()), position_of(key.source()), convert(value)});
  }
  return entries;
}

Node convert(const toml::node& node) {
  Node out{position_of(node.source()), Date{}};
  if (const auto* flag = node.as_boolean()) {
    out.value = flag->get();
  } else if (const auto* integer = node.as_integer()) {
    out.value = integer->get();
  } else if (const auto* number = node.as_floating_point()) {
    out.value = number->get();
  } else if (const auto* text = node.as_string()) {
    out.value = text->get();
  } else if (const auto* array = node.as_array()) {
    std::vector<Node> items;
    for (const auto& item : *array) items.push_back(convert(item));
    out.value = std::move(items);
  } else if (const auto* table = node.as_table()) {
    out.value = convert_table(*table);
  }
  return out;
}

std::variant<Table, Trouble> parse_text(std::string_view text) {
  if (auto trouble = find_bad_byte(text)) return *trouble;
  if (auto trouble = Guard(text).run()) return *trouble;
  try {
    return convert_table(toml::parse(text));
  } catch (const toml::parse_error& error) {
    std::string message(error.description());
    for (char& c : message) {
      if (static_cast<unsigned char>(c) < 0x20) c = ' ';
    }
    return Trouble{position_of(error.source()), "not TOML: " + message};
  }
}

}  // namespace

Table read_document(std::string_view text, std::string_view name) {
  if (text.size() > kMaxDocumentBytes) {
    throw BadInput("{}: more than {}, not a recipe", name, human_bytes(kMaxDocumentBytes));
  }
  auto parsed = parse_text(text);
  if (const auto* trouble = std::get_if<Trouble>(&parsed)) {
    throw BadInput("{}:{}:{}: {}", name, trouble->at.line, trouble->at.column, trouble->message);
  }
  return std::get<Table>(std::move(parsed));
}

std::optional<Node> read_value(std::string_view text) {
  if (text.size() > kMaxDocumentBytes) return std::nullopt;
  auto parsed = parse_text(fmt::format("value = {}", text));
  auto* table = std::get_if<Table>(&parsed);
  if (table == nullptr || table->size() != 1) return std::nullopt;
  return std::move(table->front().node);
}

std::string toml_string(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\t') {
      out += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F) {
      out += fmt::format("\\u{:04X}", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string key_part(std::string_view key) {
  const bool bare = !key.empty() && std::ranges::all_of(key, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  });
  if (bare && key.size() <= kMaxShown) return std::string(key);
  return describe({{}, std::string(key)});
}

std::string describe(const Node& node) {
  struct Visitor {
    std::string operator()(bool value) const { return value ? "true" : "false"; }
    std::string operator()(int64_t value) const { return fmt::format("{}", value); }
    std::string operator()(double value) const {
      std::string text = fmt::format("{}", value);
      if (text.find_first_not_of("-0123456789") == std::string::npos) text += ".0";
      return text;
    }
    std::string operator()(const std::string& value) const {
      if (value.size() <= kMaxShown) return toml_string(value);
      size_t end = kMaxShown;
      while ((static_cast<unsigned char>(value[end]) & 0xC0) == 0x80) --end;
      return toml_string(std::string_view(value).substr(0, end)) + "...";
    }
    std::string operator()(const std::vector<Node>& items) const {
      return items.empty() ? "an empty list" : "a list";
    }
    std::string operator()(const Table&) const { return "a table"; }
    std::string operator()(Date) const { return "a date or time"; }
  };
  return std::visit(Visitor{}, node.value);
}

}  // namespace unigrpo::recipe
