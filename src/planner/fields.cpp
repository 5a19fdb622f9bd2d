#include "planner/fields.h"

#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "base/error.h"
#include "base/text.h"

namespace unigrpo::planner {
namespace {

using nlohmann::json;

constexpr size_t kMaxList = 100'000;

int64_t integer_of(const json& value, const std::string& where, int64_t low, int64_t high) {
  const bool fits = value.is_number_integer() && value >= low && value <= high;
  if (!fits)
    throw BadInput("{}: must be a whole number from {} to {}, got {}", where, low, high, in_quotes(value.dump()));
  return value.get<int64_t>();
}

double number_of(const json& value, const std::string& where) {
  if (!value.is_number() || !std::isfinite(value.get<double>()) || value.get<double>() < 0) {
    throw BadInput("{}: must be a finite number of at least 0, got {}", where, in_quotes(value.dump()));
  }
  return value.get<double>();
}

const json& list_of(const json& value, const std::string& where) {
  if (!value.is_array() || value.size() > kMaxList) {
    throw BadInput("{}: must be a list of at most {} values", where, kMaxList);
  }
  return value;
}

}  // namespace

Fields::Fields(const json& object, std::string where) : object_(object), where_(std::move(where)) {
  if (!object.is_object()) throw BadInput("{}: expected a JSON object, got {}", where_, object.type_name());
}

void Fields::only(std::initializer_list<const char*> keys) const {
  std::vector<std::string> known(keys.begin(), keys.end());
  for (const auto& [key, value] : object_.items()) {
    if (std::ranges::find(known, key) != known.end()) continue;
    const std::string close = nearest(key, known);
    throw BadInput("{}: unknown key {}{}", where_, in_quotes(key),
                   close.empty() ? "" : fmt::format(", did you mean '{}'?", close));
  }
}

bool Fields::has(const char* key) const { return object_.contains(key); }

const json& Fields::at(const char* key) const {
  const auto found = object_.find(key);
  if (found == object_.end()) throw BadInput("{}: '{}' is missing", where_, key);
  return *found;
}

int64_t Fields::integer(const char* key, int64_t low, int64_t high) const {
  return integer_of(at(key), where_ + ": " + key, low, high);
}

double Fields::number(const char* key) const { return number_of(at(key), where_ + ": " + key); }

bool Fields::boolean(const char* key) const {
  const json& value = at(key);
  if (!value.is_boolean())
    throw BadInput("{}: {}: must be true or false, got {}", where_, key, in_quotes(value.dump()));
  return value.get<bool>();
}

std::string Fields::text(const char* key) const {
  const json& value = at(key);
  if (!value.is_string()) throw BadInput("{}: {}: must be a string, got {}", where_, key, in_quotes(value.dump()));
  return value.get<std::string>();
}

std::vector<int64_t> Fields::integers(const char* key, int64_t low, int64_t high) const {
  std::vector<int64_t> out;
  for (const json& value : list_of(at(key), where_ + ": " + key)) {
    out.push_back(integer_of(value, fmt::format("{}: {}[{}]", where_, key, out.size()), low, high));
  }
  return out;
}

std::vector<double> Fields::numbers(const char* key) const {
  std::vector<double> out;
  for (const json& value : list_of(at(key), where_ + ": " + key)) {
    out.push_back(number_of(value, fmt::format("{}: {}[{}]", where_, key, out.size())));
  }
  return out;
}

int64_t whole_number(const std::string& key, const std::string& where) {
  int64_t out = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), out);
  if (error != std::errc() || end != key.data() + key.size() || out < 1 || out > Fields::kMany) {
    throw BadInput("{}: {}: must be a number of ranks", where, in_quotes(key));
  }
  return out;
}

}  // namespace unigrpo::planner
