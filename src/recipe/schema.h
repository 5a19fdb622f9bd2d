#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "recipe/recipe.h"

namespace unigrpo::recipe {

/// An enum value of any type behind its spelling.
struct EnumRef {
  void* value;
  std::string_view (*name)(const void* value);
  bool (*set)(void* value, std::string_view name);  // false: no such name
  std::vector<std::string> (*choices)();
};

/// A list of them; `set` is given names that the field's rule accepts.
struct EnumListRef {
  void* values;
  std::vector<std::string> (*names)(const void* values);
  void (*set)(void* values, const std::vector<std::string>& names);
};

/// A table whose keys are someone else's (free_table.h), kept as the text of a JSON object.
struct TableRef {
  std::string* json;
};

/// A share and its schedule.
struct ShareRef {
  Share* share;
};

/// A value in place: what the key is bound to, and with that its type.
using Ref = std::variant<bool*, int64_t*, double*, std::string*, std::vector<std::string>*, EnumRef, EnumListRef,
                         TableRef, ShareRef>;

/// What a string must look like, and how an error says so.
struct TextRule {
  bool (*accepts)(std::string_view text);
  std::string_view one;   // "a non-empty string"
  std::string_view many;  // "non-empty strings"
};

/// What values a key takes besides its type. Numbers: an interval and perhaps one special value
/// outside of it. Strings and the elements of lists: a rule. Lists: whether they may be empty.
struct Limits {
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
  bool above_min = false;                                // min itself is out
  bool below_max = false;                                // max itself is out
  double cap = std::numeric_limits<double>::infinity();  // of its size, far beyond use: named where it is passed
  std::optional<double> special = std::nullopt;
  const TextRule* rule = nullptr;
  bool non_empty = false;
  bool line_breaks = false;  // strings: may have several lines
};

/// Bits: which commands refuse a recipe without the key.
enum Required : unsigned { kOptional = 0, kForTrain = 1, kForSft = 2, kAlways = 4 };

struct Field {
  std::string name;                                     // "group_size"; "http.url" in a sub-table of a list's elements
  std::string key;                                      // "grpo.group_size", "rewards.N.weight"
  std::function<Ref(Recipe& recipe, size_t index)> at;  // index: of the element, in a list of tables
  std::string meaning;
  Limits limits;
  unsigned required = kOptional;
  // In a list of tables, where not every element has the key: which kinds have it, and whether this one does.
  std::vector<std::string> owners = {};
  std::function<bool(Recipe& recipe, size_t index)> is_owner = {};

  bool applies(Recipe& recipe, size_t index) const { return owners.empty() || is_owner(recipe, index); }
};

/// One TOML table, or a list of tables ([[rewards]]) where `size` and `resize` are set.
struct Section {
  std::string key;  // "grpo.text"
  std::string meaning;
  unsigned required = kOptional;  // list of tables: at least one
  std::vector<Field> fields;
  std::function<size_t(const Recipe& recipe)> size;
  std::function<void(Recipe& recipe, size_t count)> resize;  // new elements have the defaults

  bool is_list() const { return static_cast<bool>(size); }
};

/// The one table of all keys, in the order in which they are written: it serves parsing, "did you
/// mean", the explanation, the resolved recipe and the comparison of two recipes.
const std::vector<Section>& schema();

const Section* find_section(std::string_view key);
/// nullptr where the section has no such key.
const Field* find_field(const Section& section, std::string_view name);
/// Whether `name` is a sub-table of the section: "http" where there is a field "http.url".
bool has_table(const Section& section, std::string_view name);

/// "integer", "string", "list of strings", "choice", "table", "float or points".
std::string type_name(const Field& field);
/// "an integer >= 2", "one of skip | stop": what an error expected and what the explanation
/// promises.
std::string expectation(const Field& field, bool with_cap = false);
/// The interval alone: ">= 2", "from 0 to 1", "> 0 and < 1"; empty where every number is taken.
std::string interval(const Limits& limits, bool with_cap = false);
bool in_range(double value, const Limits& limits);

}  // namespace unigrpo::recipe
