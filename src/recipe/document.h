#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace unigrpo::recipe {

/// Where something stands in the text, both counted from 1.
struct Position {
  int64_t line = 0;
  int64_t column = 0;
  auto operator<=>(const Position&) const = default;
};

struct Entry;
using Table = std::vector<Entry>;
struct Date {};  // TOML's dates and times, which no key takes

/// A TOML value with its place; the rest of the folder sees this tree and never the TOML library.
struct Node {
  Position at;
  std::variant<bool, int64_t, double, std::string, std::vector<Node>, Table, Date> value;
};

struct Entry {
  std::string key;
  Position at;  // of the key
  Node node;
};

inline constexpr size_t kMaxDocumentBytes = 1 << 20;

/// Parses a whole document. Throws BadInput `name:line:column: ...` for text that is not TOML, not
/// UTF-8, longer than 1 MiB, or nested so deep (32 brackets, 32 parts of a dotted key) that the
/// TOML library could run out of stack.
Table read_document(std::string_view text, std::string_view name);

/// One TOML value such as `3`, `"a"` or `["a", "b"]`; empty where the text is anything else.
std::optional<Node> read_value(std::string_view text);

/// A string as TOML writes it: quoted, control characters escaped.
std::string toml_string(std::string_view text);

/// A part of a dotted key as TOML writes it: quoted only where it must be.
std::string key_part(std::string_view key);

/// A value as an error message shows it: `3`, `0.5`, `"text"` (cut where long), `a table`.
std::string describe(const Node& node);

}  // namespace unigrpo::recipe
