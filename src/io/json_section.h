#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo::io {

/// Typed reads of one JSON object of a config file. A key that is null counts as absent. Throws BadInput naming file
/// and key.
class JsonSection {
 public:
  /// A whole file of at most 16 MiB. Integers beyond 64 bits, which some configs hold in keys that nobody reads, pass.
  static JsonSection open(const std::filesystem::path& file);
  /// `where` stands in front of errors.
  JsonSection(nlohmann::json object, std::string where);

  bool has(const char* key) const { return find(key) != nullptr; }
  bool is_null(const char* key) const;    // there, and null
  std::vector<std::string> keys() const;  // in order
  /// A size: 1 to kMaxSize. Without a fallback the key must be there.
  int64_t integer(const char* key, std::optional<int64_t> fallback = std::nullopt) const;
  double number(const char* key, double fallback) const;
  /// A number above 0.
  double positive(const char* key, double fallback) const;
  bool boolean(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  /// Throws unless the key has this value, or is absent.
  void expect(const char* key, const nlohmann::json& value) const;

  /// An object within, empty where the key is absent.
  JsonSection section(const char* key) const;
  /// What the key holds; it must be there.
  const nlohmann::json& at(const char* key) const;
  const std::string& where() const { return where_; }

  static constexpr int64_t kMaxSize = int64_t{1} << 24;  // products of two or three stay far below 2^63

 private:
  JsonSection(std::shared_ptr<const nlohmann::json> object, std::string where);
  const nlohmann::json* find(const char* key) const;  // nullptr where absent

  std::shared_ptr<const nlohmann::json> object_;
  std::string where_;
};

}  // namespace unigrpo::io
