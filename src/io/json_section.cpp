#include "io/json_section.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "io/json.h"

namespace unigrpo::io {

using nlohmann::json;

JsonSection JsonSection::open(const std::filesystem::path& file) {
  return {read_json_file(file, {.wide_integers = true}, size_t{16} << 20), file.string()};
}

JsonSection::JsonSection(json object, std::string where)
    : JsonSection(std::make_shared<const json>(std::move(object)), std::move(where)) {}

JsonSection::JsonSection(std::shared_ptr<const json> object, std::string where)
    : object_(std::move(object)), where_(std::move(where)) {
  if (!object_->is_object()) throw BadInput("{}: expected a JSON object, got {}", where_, object_->type_name());
}

const json* JsonSection::find(const char* key) const {
  const auto found = object_->find(key);
  return found == object_->end() || found->is_null() ? nullptr : &*found;
}

bool JsonSection::is_null(const char* key) const {
  const auto found = object_->find(key);
  return found != object_->end() && found->is_null();
}

std::vector<std::string> JsonSection::keys() const {
  std::vector<std::string> names;
  for (const auto& [name, value] : object_->items()) names.push_back(name);
  return names;
}

int64_t JsonSection::integer(const char* key, std::optional<int64_t> fallback) const {
  const json* value = find(key);
  if (value == nullptr) {
    if (fallback) return *fallback;
    throw BadInput("{}: '{}' is missing (a positive integer)", where_, key);
  }
  if (!value->is_number_integer() || *value < 1) {
    throw BadInput("{}: '{}' must be a positive integer, got {}", where_, key, value->dump());
  }
  if (*value > kMaxSize) throw BadInput("{}: '{}' must be at most {}, got {}", where_, key, kMaxSize, value->dump());
  return value->get<int64_t>();
}

double JsonSection::number(const char* key, double fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_number()) throw BadInput("{}: '{}' must be a number, got {}", where_, key, value->dump());
  return value->get<double>();
}

double JsonSection::positive(const char* key, double fallback) const {
  const double value = number(key, fallback);
  if (!(value > 0)) throw BadInput("{}: '{}' must be a number above 0, got {}", where_, key, at(key).dump());
  return value;
}

bool JsonSection::boolean(const char* key, bool fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) throw BadInput("{}: '{}' must be true or false, got {}", where_, key, value->dump());
  return value->get<bool>();
}

std::string JsonSection::text(const char* key, const std::string& fallback) const {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) throw BadInput("{}: '{}' must be a string, got {}", where_, key, value->dump());
  return value->get<std::string>();
}

void JsonSection::expect(const char* key, const json& value) const {
  const json* found = find(key);
  if (found != nullptr && *found != value) {
    throw BadInput("{}: '{}' is {}; only {} is supported", where_, key, found->dump(), value.dump());
  }
}

JsonSection JsonSection::section(const char* key) const {
  const std::string where = where_ + ": " + key;
  const json* value = find(key);
  if (value == nullptr) return {json::object(), where};
  return {std::shared_ptr<const json>(object_, value), where};  // shares the whole tree's life
}

const json& JsonSection::at(const char* key) const { return object_->at(key); }

}  // namespace unigrpo::io
