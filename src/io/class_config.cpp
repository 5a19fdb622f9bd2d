#include "io/class_config.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace unigrpo::io {

using nlohmann::json;

namespace {

constexpr size_t kLongestList = 64;

std::string listed(std::initializer_list<std::string_view> names) {
  std::vector<std::string> texts;
  for (const std::string_view name : names) texts.push_back("\"" + std::string(name) + "\"");
  return join(texts, ", ");
}

bool is_one_of(std::string_view name, std::initializer_list<std::string_view> names) {
  return std::ranges::find(names, name) != names.end();
}

}  // namespace

ClassConfig::ClassConfig(JsonSection section, std::string class_name)
    : section_(std::move(section)), class_name_(std::move(class_name)) {}

ClassConfig ClassConfig::open(const std::filesystem::path& file, std::initializer_list<std::string_view> classes) {
  JsonSection section = JsonSection::open(file);
  if (!section.has("_class_name")) throw BadInput("{}: '_class_name' is missing ({})", file.string(), listed(classes));
  std::string name = section.text("_class_name", "");
  if (!is_one_of(name, classes)) {
    throw BadInput("{}: '_class_name' is \"{}\", expected {}", file.string(), name, listed(classes));
  }
  return {std::move(section), std::move(name)};
}

void ClassConfig::refuse(const char* key, const std::string& what) const {
  throw BadInput("{}: '{}' {}", where(), key, what);
}

const json* ClassConfig::find(const char* key) {
  asked_.insert(key);
  return section_.has(key) ? &section_.at(key) : nullptr;
}

int64_t ClassConfig::integer_of(const char* key, const json& value, int64_t most) const {
  if (!value.is_number_integer() || value < 1 || value > most) {
    refuse(key, fmt::format("must be an integer from 1 to {}, got {}", most, value.dump()));
  }
  return value.get<int64_t>();
}

const json& ClassConfig::list(const char* key, const json& value) const {
  if (!value.is_array() || value.empty() || value.size() > kLongestList) {
    refuse(key, fmt::format("must be a list of 1 to {} entries, got {}", kLongestList, value.dump().substr(0, 80)));
  }
  return value;
}

int64_t ClassConfig::integer(const char* key, int64_t fallback, int64_t most) {
  const json* value = find(key);
  return value == nullptr ? fallback : integer_of(key, *value, most);
}

std::optional<int64_t> ClassConfig::integer_or_none(const char* key, std::optional<int64_t> fallback) {
  const json* value = find(key);
  if (value != nullptr) return integer_of(key, *value, JsonSection::kMaxSize);
  return section_.is_null(key) ? std::nullopt : fallback;
}

double ClassConfig::number(const char* key, double fallback) {
  find(key);
  return section_.number(key, fallback);
}

double ClassConfig::positive(const char* key, double fallback) {
  find(key);
  return section_.positive(key, fallback);
}

bool ClassConfig::boolean(const char* key, bool fallback) {
  find(key);
  return section_.boolean(key, fallback);
}

std::string ClassConfig::choice(const char* key, const std::string& fallback,
                                std::initializer_list<std::string_view> choices) {
  find(key);
  const std::string value = section_.text(key, fallback);
  if (!is_one_of(value, choices)) refuse(key, fmt::format("must be one of {}, got \"{}\"", listed(choices), value));
  return value;
}

std::string ClassConfig::choice_or_none(const char* key, const std::string& fallback,
                                        std::initializer_list<std::string_view> choices) {
  if (section_.is_null(key)) {
    asked_.insert(key);
    return "";
  }
  if (!section_.has(key) && fallback.empty()) {
    asked_.insert(key);
    return "";
  }
  return choice(key, fallback, choices);
}

std::vector<int64_t> ClassConfig::integers(const char* key, const std::vector<int64_t>& fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  std::vector<int64_t> result;
  for (const json& entry : list(key, *value)) result.push_back(integer_of(key, entry, JsonSection::kMaxSize));
  return result;
}

std::vector<std::vector<int64_t>> ClassConfig::integer_lists(const char* key,
                                                             const std::vector<std::vector<int64_t>>& fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  std::vector<std::vector<int64_t>> result;
  for (const json& inner : list(key, *value)) {
    std::vector<int64_t>& row = result.emplace_back();
    for (const json& entry : list(key, inner)) row.push_back(integer_of(key, entry, JsonSection::kMaxSize));
  }
  return result;
}

std::vector<std::string> ClassConfig::choices(const char* key, const std::vector<std::string>& fallback,
                                              std::initializer_list<std::string_view> choices) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  std::vector<std::string> result;
  for (const json& entry : list(key, *value)) {
    if (!entry.is_string() || !is_one_of(entry.get<std::string>(), choices)) {
      refuse(key, fmt::format("must hold {}, got {}", listed(choices), entry.dump()));
    }
    result.push_back(entry.get<std::string>());
  }
  return result;
}

std::vector<bool> ClassConfig::booleans(const char* key, const std::vector<bool>& fallback, size_t count) {
  const json* value = find(key);
  std::vector<bool> result = fallback;
  if (value != nullptr && value->is_boolean()) return std::vector<bool>(count, value->get<bool>());
  if (value != nullptr) {
    result.clear();
    for (const json& entry : list(key, *value)) {
      if (!entry.is_boolean()) refuse(key, "must hold true or false, got " + entry.dump());
      result.push_back(entry.get<bool>());
    }
  }
  if (result.size() != count) refuse(key, fmt::format("must have {} entries, has {}", count, result.size()));
  return result;
}

void ClassConfig::only(const char* key, const json& value) {
  const json* found = find(key);
  if (found != nullptr && *found != value) {
    refuse(key, fmt::format("is {}; only {} is supported", found->dump().substr(0, 80), value.dump()));
  }
}

void ClassConfig::ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) asked_.insert(key);
}

void ClassConfig::finish() const {
  for (const std::string& key : section_.keys()) {
    if (!key.starts_with('_') && !asked_.contains(key)) {
      throw BadInput("{}: '{}' is not a key of {}", where(), key, class_name_);
    }
  }
}

}  // namespace unigrpo::io
