#include "recipe/document.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"
#include "recipe/guard.h"

#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

namespace unigrpo::recipe {

namespace {

constexpr size_t kMaxShown = 60;  // bytes of a value in a message

Position position_of(const toml::source_region& region) {
  return {static_cast<int64_t>(region.begin.line), static_cast<int64_t>(region.begin.column)};
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
  if (auto trouble = find_hazard(text)) return *trouble;
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
  const bool bare = !key.empty() && std::ranges::all_of(key, is_bare_key_character);
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
    std::string operator()(const std::string& given) const {
      const std::string value = hide_password(given);  // this goes to terminals and logs
      if (value.size() <= kMaxShown) return toml_string(value);
      size_t end = kMaxShown;
      while ((static_cast<unsigned char>(value[end]) & 0xC0) == 0x80) --end;
      return toml_string(std::string_view(value).substr(0, end)) + "...";
    }
    std::string operator()(const std::vector<Node>& items) const { return items.empty() ? "an empty list" : "a list"; }
    std::string operator()(const Table&) const { return "a table"; }
    std::string operator()(Date) const { return "a date or time"; }
  };
  return std::visit(Visitor{}, node.value);
}

}  // namespace unigrpo::recipe
