#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "policy/mot_transformer.h"

namespace unigrpo::policy {

/// Typed reads of one JSON object of a config file; BadInput names file and key.
class ConfigSection {
 public:
  /// Throws BadInput unless `object` is one. It must outlive the section.
  ConfigSection(const nlohmann::json& object, std::string file);

  /// At least 1. A key without fallback must be there.
  int64_t integer(const char* key, std::optional<int64_t> fallback = std::nullopt) const;
  double number(const char* key, double fallback) const;
  bool boolean(const char* key, bool fallback) const;
  std::string text(const char* key, const std::string& fallback) const;
  /// Whether the key is there, and not null.
  bool has(const char* key) const;
  const nlohmann::json& object() const { return object_; }
  const std::string& file() const { return file_; }

 private:
  const nlohmann::json& object_;
  std::string file_;
};

/// A config file, at most 16 MiB. Throws BadInput naming it.
nlohmann::json read_config_file(const std::filesystem::path& path);

/// Sizes of a language model in Qwen2's keys; `family` says what the file does not, and the values of keys that it may
/// leave out. Throws BadInput naming file and key, also for what the layers do not compute: sliding windows, scaled
/// rotary positions, another activation.
MotConfig read_mot_config(const ConfigSection& section, const MotConfig& family);

}  // namespace unigrpo::policy
