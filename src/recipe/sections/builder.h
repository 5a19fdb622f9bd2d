#pragma once

#include <functional>
#include <limits>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "recipe/schema.h"

namespace unigrpo::recipe {

// What the sections of this folder are written in.

inline constexpr TextRule kNonEmpty = {[](std::string_view text) { return !text.empty(); }, "a non-empty string",
                                       "non-empty strings"};

inline constexpr TextRule kSegment = {
    [](std::string_view text) { return enum_value<data::SegmentKind>(text).has_value(); },
    "\"text\", \"image\" or \"av\"", "\"text\", \"image\" and \"av\""};

inline constexpr TextRule kStream = {[](std::string_view text) { return enum_value<reward::Stream>(text).has_value(); },
                                     "\"video\" or \"audio\"", "\"video\" and \"audio\""};

inline Limits at_least(double min, double max = std::numeric_limits<double>::infinity()) {
  return {.min = min, .max = max};
}
inline Limits above(double min, double max = std::numeric_limits<double>::infinity()) {
  return {.min = min, .max = max, .above_min = true};
}
inline Limits between(double min, double max) { return {.min = min, .max = max}; }
inline Limits strictly_between(double min, double max) {
  return {.min = min, .max = max, .above_min = true, .below_max = true};
}
inline Limits from_below(double min, double max) { return {.min = min, .max = max, .below_max = true}; }
inline Limits or_else(double special, Limits limits) {
  limits.special = special;
  return limits;
}
inline Limits up_to(double cap, Limits limits = {}) {
  limits.cap = cap;
  return limits;
}
inline Limits text(const TextRule& rule) { return {.rule = &rule}; }
inline Limits lines() { return {.line_breaks = true}; }
inline Limits list(const TextRule& rule) { return {.rule = &rule, .non_empty = true}; }
inline Limits list_or_empty(const TextRule& rule) { return {.rule = &rule}; }

// Caps far beyond use, so that products of two counts stay exact and no allocation is absurd.
inline constexpr double kMany = 1e9;
inline constexpr double kSome = 65536;
// Of a factor: float32 holds products of a few of them, so that no number of a recipe alone makes a step overflow.
inline constexpr double kLarge = 1e6;
// Of a score, in whatever unit a reward or a judge has: the product with a weight or scale is still a float32.
inline constexpr double kScore = 1e12;

template <typename T>
Ref reference_to(T& value) {
  if constexpr (std::is_same_v<T, Share>) {
    return ShareRef{&value};
  } else if constexpr (std::is_enum_v<T>) {
    return EnumRef{&value, [](const void* p) { return enum_name(*static_cast<const T*>(p)); },
                   [](void* p, std::string_view name) {
                     const auto parsed = enum_value<T>(name);
                     if (parsed) *static_cast<T*>(p) = *parsed;
                     return parsed.has_value();
                   },
                   [] { return std::vector<std::string>(enum_names<T>.begin(), enum_names<T>.end()); }};
  } else {
    return &value;
  }
}

template <typename T>
  requires std::is_enum_v<T>
Ref reference_to(std::vector<T>& values) {
  using List = std::vector<T>;
  return EnumListRef{&values,
                     [](const void* list) {
                       std::vector<std::string> names;
                       for (const T value : *static_cast<const List*>(list)) names.emplace_back(enum_name(value));
                       return names;
                     },
                     [](void* list, const std::vector<std::string>& names) {
                       static_cast<List*>(list)->clear();
                       for (const std::string& name : names) {
                         static_cast<List*>(list)->push_back(enum_value<T>(name).value());
                       }
                     }};
}

/// Collects the rows of one table; `at` finds the config struct within a recipe.
template <typename At>
class Builder {
 public:
  Builder(std::string key, std::string meaning, At at) : at_(at) {
    section_.key = std::move(key);
    section_.meaning = std::move(meaning);
  }

  template <typename Config, typename T>
  Builder& row(const char* name, T Config::*member, const char* meaning, Limits limits = {},
               unsigned required = kOptional) {
    return add(name, [member](Config& config) -> T& { return config.*member; }, meaning, limits, required);
  }

  /// A row whose value lies deeper: `holder` is the member that has it.
  template <typename Config, typename Sub, typename T>
  Builder& row(const char* name, Sub Config::*holder, T Sub::*member, const char* meaning, Limits limits = {}) {
    return add(name, [=](Config& config) -> T& { return config.*holder.*member; }, meaning, limits);
  }

  /// A row whose value `find` finds in the config.
  template <typename Find>
  Builder& add(const char* name, Find find, const char* meaning, Limits limits = {}, unsigned required = kOptional) {
    const std::string prefix = section_.key + (section_.is_list() ? ".N." : ".");
    section_.fields.push_back(
        {name, prefix + name,
         [at = at_, find](Recipe& recipe, size_t index) { return reference_to(find(at(recipe, index))); }, meaning,
         limits, required, owners_, is_owner_});
    return *this;
  }

  /// The rows that follow are for some elements of the list alone: for `owners`, where `is_owner(config)`.
  template <typename IsOwner>
  Builder& only(std::vector<std::string> owners, IsOwner is_owner) {
    owners_ = std::move(owners);
    is_owner_ = [at = at_, is_owner](Recipe& recipe, size_t index) { return is_owner(at(recipe, index)); };
    return *this;
  }
  Builder& everyone() {
    owners_.clear();
    return *this;
  }

  /// A free-form table; the member holds it as JSON.
  template <typename Config, typename Sub>
  Builder& table(const char* name, Sub Config::*holder, std::string Sub::*member, const char* meaning) {
    row(name, holder, member, meaning);
    section_.fields.back().at = [=, at = at_](Recipe& recipe, size_t index) {
      return TableRef{&(at(recipe, index).*holder.*member)};
    };
    return *this;
  }

  template <typename Items>
  Builder& list_of(Items items, unsigned required = kOptional) {
    section_.size = [items](const Recipe& recipe) { return items(const_cast<Recipe&>(recipe)).size(); };
    section_.resize = [items](Recipe& recipe, size_t count) { items(recipe).resize(count); };
    section_.required = required;
    return *this;
  }

  operator Section() const { return section_; }  // NOLINT: the end of a chain of rows

 private:
  At at_;
  Section section_;
  std::vector<std::string> owners_;
  std::function<bool(Recipe& recipe, size_t index)> is_owner_;
};

}  // namespace unigrpo::recipe
