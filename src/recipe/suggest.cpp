#include "recipe/suggest.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "base/text.h"

namespace unigrpo::recipe {

namespace {

constexpr size_t kMaxWord = 100;  // no key is near a longer one, and the distance costs its square

std::pair<std::string_view, std::string_view> split_last(std::string_view key) {
  const size_t dot = key.rfind('.');
  if (dot == std::string_view::npos) return {"", key};
  return {key.substr(0, dot), key.substr(dot + 1)};
}

bool contains(std::string_view outer, std::string_view inner) {
  return inner.size() >= 3 && outer.find(inner) != std::string_view::npos;
}

/// How far a key is from a word; empty where it is no suggestion. The same name in another table
/// counts as near, and so does a longer or shorter form of a name in the same table.
std::optional<size_t> distance(std::string_view word, std::string_view key) {
  const auto [word_parent, word_leaf] = split_last(word);
  const auto [key_parent, key_leaf] = split_last(key);
  const size_t whole = edit_distance(word, key);
  if (word_leaf == key_leaf) return std::min<size_t>(whole, 1);
  if (word_parent == key_parent && (contains(word_leaf, key_leaf) || contains(key_leaf, word_leaf))) return 1;
  const size_t leaf = edit_distance(word_leaf, key_leaf);
  const size_t leaf_limit = word_leaf.size() < 4 ? 1 : std::max<size_t>(2, word_leaf.size() / 3);
  if (leaf <= leaf_limit && whole <= std::max<size_t>(2, word.size() / 3)) return whole;
  return std::nullopt;
}

/// rewards.12.weight -> rewards.N.weight and 12.
std::pair<std::string, std::string> without_index(std::string_view key) {
  std::string out;
  std::string index = "0";
  size_t begin = 0;
  while (begin <= key.size()) {
    const size_t end = std::min(key.find('.', begin), key.size());
    std::string part(key.substr(begin, end - begin));
    if (!part.empty() && part.find_first_not_of("0123456789") == std::string::npos) index = std::exchange(part, "N");
    out += (begin == 0 ? "" : ".") + part;
    begin = end + 1;
  }
  return {out, index};
}

std::string nearest_key(std::string_view key, bool is_table) {
  if (key.size() > kMaxWord) return "";
  const auto [word, index] = without_index(key);
  std::string best;
  std::pair<size_t, size_t> best_distance;
  const auto consider = [&](const std::string& candidate) {
    const auto near = distance(word, candidate);
    if (!near) return;
    const std::pair found{*near, edit_distance(word, candidate)};
    if (best.empty() || found < best_distance) {
      best = candidate;
      best_distance = found;
    }
  };
  for (const Section& section : schema()) {
    if (is_table || section.is_list()) consider(section.key);
    for (const Field& field : section.fields) {
      if (!is_table) consider(field.key);
      const bool in_sub_table = field.name.find('.') != std::string::npos;
      if (is_table && in_sub_table) consider(std::string(split_last(field.key).first));
    }
  }
  const size_t at = best.find(".N.");
  if (at != std::string::npos) best.replace(at + 1, 1, index);
  return best;
}

std::vector<std::string> names_in(const Section* parent, std::string_view inside) {
  std::vector<std::string> names;
  if (parent != nullptr) {
    for (const Field& field : parent->fields) {
      if (!field.name.starts_with(inside)) continue;
      std::string name = field.name.substr(inside.size());
      name.resize(std::min(name.find('.'), name.size()));  // a sub-table by its own name, once
      if (names.empty() || names.back() != name) names.push_back(std::move(name));
    }
  }
  if (!inside.empty()) return names;
  for (const Section& section : schema()) {
    const auto [above, name] = split_last(section.key);
    if (above == (parent == nullptr ? "" : parent->key)) names.emplace_back(name);
  }
  return names;
}

}  // namespace

std::string unknown_key(std::string_view key, const Section* parent, bool is_table, std::string_view inside) {
  const char* what = is_table ? "unknown table" : "unknown key";
  const std::string near = nearest_key(key, is_table);
  if (!near.empty()) return fmt::format("{}, did you mean '{}'?", what, near);
  return fmt::format("{}, expected one of {}", what, join(names_in(parent, inside), ", "));
}

std::string near_choice(std::string_view word, const EnumRef& value) {
  if (word.size() > kMaxWord) return "";
  const std::vector<std::string> choices = value.choices();
  const std::string near = nearest(word, choices);
  return near.empty() ? "" : fmt::format(" (did you mean \"{}\"?)", near);
}

}  // namespace unigrpo::recipe
