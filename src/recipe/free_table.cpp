#include "recipe/free_table.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "recipe/guard.h"

namespace unigrpo::recipe {

namespace {

using Json = nlohmann::json;

constexpr size_t kMaxDepth = 16;  // what is written as inline tables must be read again

Json json_of(const Table& table);

Json json_of(const Node& node) {
  struct Visitor {
    Json operator()(bool value) const { return value; }
    Json operator()(int64_t value) const { return value; }
    Json operator()(double value) const { return value; }
    Json operator()(const std::string& value) const { return value; }
    Json operator()(const std::vector<Node>& items) const {
      Json list = Json::array();
      for (const Node& item : items) list.push_back(json_of(item));
      return list;
    }
    Json operator()(const Table& table) const { return json_of(table); }
    Json operator()(Date) const { return nullptr; }  // find_unfit has refused it
  };
  return std::visit(Visitor{}, node.value);
}

Json json_of(const Table& table) {
  Json object = Json::object();
  for (const Entry& entry : table) object[entry.key] = json_of(entry.node);
  return object;
}

std::string toml_of(const Json& json) {
  std::string out;
  if (json.is_object()) {
    for (const auto& [key, value] : json.items()) {
      const bool bare = !key.empty() && std::ranges::all_of(key, is_bare_key_character);
      out += (out.empty() ? "" : ", ") + (bare ? key : toml_string(key)) + " = " + toml_of(value);
    }
    return "{" + out + "}";
  }
  if (json.is_array()) {
    for (const Json& value : json) out += (out.empty() ? "" : ", ") + toml_of(value);
    return "[" + out + "]";
  }
  if (json.is_string()) return toml_string(json.get_ref<const std::string&>());
  if (json.is_number_float()) return describe({{}, json.get<double>()});
  return json.dump();
}

}  // namespace

std::optional<Unfit> find_unfit(const Node& node, const std::string& key, size_t depth) {
  if (std::holds_alternative<Date>(node.value)) {
    return Unfit{node.at, key, "expected a string, number, boolean, list or table, got " + describe(node)};
  }
  const auto* number = std::get_if<double>(&node.value);
  if (number != nullptr && !std::isfinite(*number))
    return Unfit{node.at, key, "expected a number, got " + describe(node)};
  const auto* items = std::get_if<std::vector<Node>>(&node.value);
  const auto* table = std::get_if<Table>(&node.value);
  if ((items != nullptr || table != nullptr) && depth >= kMaxDepth) {
    return Unfit{node.at, key, fmt::format("nests deeper than {}", kMaxDepth)};
  }
  for (size_t i = 0; items != nullptr && i < items->size(); ++i) {
    if (auto unfit = find_unfit((*items)[i], fmt::format("{}.{}", key, i), depth + 1)) return unfit;
  }
  if (table == nullptr) return {};
  for (const Entry& entry : *table) {
    if (auto unfit = find_unfit(entry.node, key + "." + key_part(entry.key), depth + 1)) return unfit;
  }
  return {};
}

std::string table_json(const Table& table) { return json_of(table).dump(); }

std::string inline_table(const std::string& json) { return toml_of(Json::parse(json)); }

void set_entry(std::string& json, std::string_view key, const std::string& text, const std::string& who) {
  Json all = Json::parse(json);
  Json* at = &all;
  size_t depth = 0;
  for (size_t begin = 0; begin <= key.size(); ++depth) {
    const size_t end = std::min(key.find('.', begin), key.size());
    if (end == begin) throw BadInput("{}: the key has an empty part", who);
    if (at->is_null()) *at = Json::object();
    if (!at->is_object()) throw BadInput("{}: leads through a value that is no table", who);
    at = &(*at)[std::string(key.substr(begin, end - begin))];
    begin = end + 1;
  }
  Node value{{}, text};
  if (auto node = read_value(text)) value = *std::move(node);
  if (const auto unfit = find_unfit(value, "", depth)) throw BadInput("{}: {}", who, unfit->message);
  if (depth > kMaxDepth) throw BadInput("{}: nests deeper than {}", who, kMaxDepth);
  *at = json_of(value);
  json = all.dump();
}

std::string read_free_table(std::string_view text, std::string_view name) {
  const Node node{{1, 1}, read_document(text, name)};
  if (const auto unfit = find_unfit(node, "")) {
    throw BadInput("{}:{}:{}: {}: {}", name, unfit->at.line, unfit->at.column, unfit->key.substr(1), unfit->message);
  }
  return table_json(std::get<Table>(node.value));
}

}  // namespace unigrpo::recipe
