#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace unigrpo::io {

struct JsonLimits {
  int max_depth = 64;             // of nested objects and arrays, at most 512
  size_t max_values = 4'000'000;  // values and keys: bounds the memory that a small file can ask for
  bool wide_integers = false;     // integers beyond 64 bits arrive as real() (Hugging Face configs)
};

/// What a JSON text holds, in its order. Numbers arrive exactly: an integer that does not fit in 64
/// bits and a real beyond double are refused before they get here. Handlers may throw.
class JsonEvents {
 public:
  virtual ~JsonEvents() = default;
  virtual void start_object() = 0;
  virtual void key(std::string&& name) = 0;
  virtual void end_object() = 0;
  virtual void start_array() = 0;
  virtual void end_array() = 0;
  virtual void string(std::string&& value) = 0;
  virtual void unsigned_integer(uint64_t value) = 0;
  virtual void negative_integer(int64_t value) = 0;  // written with a minus sign, "-0" included
  virtual void real(double value) = 0;
  virtual void boolean(bool value) = 0;
  virtual void null() = 0;
};

/// Reads strict JSON (RFC 8259) without building a tree: valid UTF-8 without byte order mark, no
/// key twice in one object (after unescaping), no trailing bytes, no NaN, no lone surrogates.
/// Throws BadInput "<where>: invalid JSON: <what> at byte N, line L" (no line in a one-line text);
/// `where` holds the file name.
void read_json(std::string_view text, std::string_view where, const JsonLimits& limits, JsonEvents& events);

/// The same as a tree.
nlohmann::json parse_json(std::string_view text, std::string_view where, const JsonLimits& limits = {});

/// Reads and parses a file of at most `max_bytes`; errors name the path.
nlohmann::json read_json_file(const std::filesystem::path& path, const JsonLimits& limits = {},
                              size_t max_bytes = size_t{256} << 20);

}  // namespace unigrpo::io
