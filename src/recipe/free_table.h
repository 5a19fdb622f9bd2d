#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "recipe/document.h"

namespace unigrpo::recipe {

// Tables whose keys are not the recipe's but someone else's (a plugin's settings). A recipe carries one as the text of
// a JSON object, keys sorted.

/// What a free-form table may not hold, and where: dates, nan and inf, more than 16 levels. `depth`: of the node
/// itself.
struct Unfit {
  Position at;
  std::string key;  // below `key` of the search
  std::string message;
};
std::optional<Unfit> find_unfit(const Node& node, const std::string& key, size_t depth = 0);

/// A table without anything unfit, as JSON.
std::string table_json(const Table& table);

/// The same as a TOML inline table: `{limit = 200, words = ["a", "b"]}`.
std::string inline_table(const std::string& json);

/// Sets the entry at a dotted key, making tables on the way where missing: a TOML value where `text` is one, else a
/// string. Throws BadInput `who: ...` where the key leads through a value that is no table, or the value is unfit.
void set_entry(std::string& json, std::string_view key, const std::string& text, const std::string& who);

/// A whole TOML document as such a table. Throws BadInput `name:line:column: ...`.
std::string read_free_table(std::string_view text, std::string_view name);

}  // namespace unigrpo::recipe
