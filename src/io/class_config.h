#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "io/json_section.h"

namespace unigrpo::io {

/// The config.json of one class of a diffusers model folder, read strictly: the class must be one of those expected, a
/// key that is absent or null has the class's default, and a key that nobody asked for is an error, unless it begins
/// with an underscore. Throws BadInput naming file and key.
class ClassConfig {
 public:
  static ClassConfig open(const std::filesystem::path& file, std::initializer_list<std::string_view> classes);

  const std::string& class_name() const { return class_name_; }
  const std::string& where() const { return section_.where(); }

  /// A size or count of at most `most`.
  int64_t integer(const char* key, int64_t fallback, int64_t most = JsonSection::kMaxSize);
  /// The same where null says that there is none.
  std::optional<int64_t> integer_or_none(const char* key, std::optional<int64_t> fallback);
  double number(const char* key, double fallback);
  double positive(const char* key, double fallback);
  bool boolean(const char* key, bool fallback);
  std::string choice(const char* key, const std::string& fallback, std::initializer_list<std::string_view> choices);
  /// The same where null is one of the choices: "" then.
  std::string choice_or_none(const char* key, const std::string& fallback,
                             std::initializer_list<std::string_view> choices);
  /// Lists of 1 to 64 entries; empty where null and `fallback` is empty.
  std::vector<int64_t> integers(const char* key, const std::vector<int64_t>& fallback);
  std::vector<std::vector<int64_t>> integer_lists(const char* key, const std::vector<std::vector<int64_t>>& fallback);
  std::vector<std::string> choices(const char* key, const std::vector<std::string>& fallback,
                                   std::initializer_list<std::string_view> choices);
  /// One boolean, which then stands for all, or `count`.
  std::vector<bool> booleans(const char* key, const std::vector<bool>& fallback, size_t count);
  /// A key of the class of which this value is the only one that we have; absent it has it, too.
  void only(const char* key, const nlohmann::json& value);
  /// Keys of the class that change nothing here.
  void ignore(std::initializer_list<const char*> keys);
  /// Throws for the keys that nobody asked for.
  void finish() const;
  /// Throws BadInput "<file>: '<key>' <what>".
  [[noreturn]] void refuse(const char* key, const std::string& what) const;

 private:
  ClassConfig(JsonSection section, std::string class_name);
  const nlohmann::json* find(const char* key);  // nullptr where absent or null
  int64_t integer_of(const char* key, const nlohmann::json& value, int64_t most) const;
  const nlohmann::json& list(const char* key, const nlohmann::json& value) const;

  JsonSection section_;
  std::string class_name_;
  std::set<std::string> asked_;
};

}  // namespace unigrpo::io
