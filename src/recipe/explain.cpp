#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "base/text.h"
#include "recipe/document.h"
#include "recipe/free_table.h"
#include "recipe/parse.h"
#include "recipe/schema.h"

namespace unigrpo::recipe {

namespace {

struct ValueText {
  std::string operator()(const bool* value) const { return describe({{}, *value}); }
  std::string operator()(const int64_t* value) const { return describe({{}, *value}); }
  std::string operator()(const double* value) const { return describe({{}, *value}); }  // shortest that reads back
  std::string operator()(const std::string* value) const { return toml_string(*value); }
  std::string operator()(const std::vector<std::string>* values) const {
    std::vector<std::string> parts;
    for (const std::string& value : *values) parts.push_back(toml_string(value));
    return "[" + join(parts, ", ") + "]";
  }
  std::string operator()(const EnumRef& value) const { return toml_string(value.name(value.value)); }
  std::string operator()(const EnumListRef& list) const {
    const std::vector<std::string> names = list.names(list.values);
    return (*this)(&names);
  }
  std::string operator()(const TableRef& table) const { return inline_table(*table.json); }
  std::string operator()(const ShareRef& ref) const {
    const std::vector<Share::Point>& points = ref.share->points;
    if (points.size() == 1 && points.front().step == 0) return (*this)(&points.front().share);
    std::vector<std::string> parts;
    for (const Share::Point& point : points) {
      parts.push_back(fmt::format("[{}, {}]", point.step, (*this)(&point.share)));
    }
    return "[" + join(parts, ", ") + "]";
  }
};

std::string value_text(const Field& field, Recipe& recipe, size_t index) {
  return std::visit(ValueText{}, field.at(recipe, index));
}

void append_rows(std::string& out, const Section& section, Recipe& recipe, size_t index) {
  for (const Field& field : section.fields) {
    if (!field.applies(recipe, index)) continue;
    out += fmt::format("{} = {}\n", field.name, value_text(field, recipe, index));
  }
}

using Row = std::array<std::string, 5>;

std::string default_text(const Field& field, Recipe& defaults) {
  if (field.required == kOptional) return value_text(field, defaults, 0);
  std::vector<std::string> commands;
  if ((field.required & kForTrain) != 0) commands.push_back("train");
  if ((field.required & kForSft) != 0) commands.push_back("sft");
  return commands.empty() ? "required" : "required by " + join(commands, ", ");
}

std::string range_text(const Field& field, const Ref& ref) {
  const Limits& limits = field.limits;
  if (const auto* value = std::get_if<EnumRef>(&ref)) return join(value->choices(), ", ");
  if (limits.rule != nullptr) {
    const bool is_list =
        std::holds_alternative<std::vector<std::string>*>(ref) || std::holds_alternative<EnumListRef>(ref);
    return std::string(limits.non_empty ? "at least one; " : "") +
           std::string(is_list ? limits.rule->many : limits.rule->one);
  }
  const std::string range = interval(limits, /*with_cap=*/true);
  return limits.special ? fmt::format("{} or {}", *limits.special, range) : range;
}

/// With the kinds that have the key, where not all do.
std::string meaning_text(const Field& field) {
  return field.owners.empty() ? field.meaning : join(field.owners, ", ") + ": " + field.meaning;
}

/// A Markdown table whose columns line up in a terminal as well.
std::string table_text(const std::vector<Row>& rows) {
  std::array<size_t, 5> widths{};
  for (const Row& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  }
  std::string out;
  for (size_t r = 0; r < rows.size(); ++r) {
    std::string line = "|";
    for (size_t i = 0; i < rows[r].size(); ++i) line += fmt::format(" {:<{}} |", rows[r][i], widths[i]);
    out += line + "\n";
    if (r > 0) continue;
    line = "|";
    for (const size_t width : widths) line += std::string(width + 2, '-') + "|";
    out += line + "\n";
  }
  return out;
}

}  // namespace

std::string to_toml(const Recipe& recipe) {
  Recipe copy = recipe;  // the schema's accessors want it mutable
  std::string out;
  for (const Section& section : schema()) {
    if (!section.is_list()) {
      out += fmt::format("{}[{}]\n", out.empty() ? "" : "\n", section.key);
      append_rows(out, section, copy, 0);
      continue;
    }
    for (size_t i = 0; i < section.size(copy); ++i) {
      out += fmt::format("\n[[{}]]\n", section.key);
      append_rows(out, section, copy, i);
    }
  }
  return out;
}

std::string explain() {
  std::string out =
      "# Recipe keys\n\n"
      "What `unigrpo recipe --explain` prints. A recipe is a TOML file; a key that it leaves out "
      "has its default.\n"
      "`--set key=value` overrides a key from the command line: `--set grpo.group_size=16`,\n"
      "`--set rewards.0.weight=0.5` (N counts from 0). An integer stands for a float, not the "
      "reverse; paths are\n"
      "relative to the current directory. A table has keys of its owner's choice: `--set "
      "rewards.0.settings.limit=200`.\n";
  Recipe defaults;
  for (const Section& section : schema()) {
    if (section.is_list()) section.resize(defaults, 1);
  }
  for (const Section& section : schema()) {
    const char* open = section.is_list() ? "[[" : "[";
    const char* close = section.is_list() ? "]]" : "]";
    out += fmt::format("\n## {}{}{}: {}\n\n", open, section.key, close, section.meaning);
    if (section.is_list()) {
      out += fmt::format("A list of tables, {}.\n\n",
                         (section.required & kForTrain) != 0 ? "at least one for train" : "empty by default");
    }
    std::vector<Row> rows = {{"key", "type", "default", "range", "meaning"}};
    for (const Field& field : section.fields) {
      const Ref ref = field.at(defaults, 0);
      rows.push_back(
          {field.key, type_name(field), default_text(field, defaults), range_text(field, ref), meaning_text(field)});
    }
    out += table_text(rows);
  }
  return out;
}

std::vector<std::string> differing_keys(const Recipe& a, const Recipe& b) {
  Recipe left = a;
  Recipe right = b;
  std::vector<std::string> keys;
  for (const Section& section : schema()) {
    const size_t count = section.is_list() ? section.size(left) : 1;
    if (section.is_list() && count != section.size(right)) {
      keys.push_back(section.key);
      continue;
    }
    for (size_t i = 0; i < count; ++i) {
      for (const Field& field : section.fields) {
        const bool applies = field.applies(left, i);
        const bool same = applies == field.applies(right, i) &&
                          (!applies || value_text(field, left, i) == value_text(field, right, i));
        if (same) continue;
        keys.push_back(section.is_list() ? fmt::format("{}.{}.{}", section.key, i, field.name) : field.key);
      }
    }
  }
  return keys;
}

}  // namespace unigrpo::recipe
