#include "runtime/stateful.h"

#include <charconv>

#include "base/error.h"

namespace unigrpo {

int64_t integer_value(const State& state, const std::string& key, const std::string& where) {
  const auto found = state.values.find(key);
  if (found == state.values.end()) throw BadInput("{}: '{}' is missing", where, key);
  const std::string& text = found->second;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw BadInput("{}: '{}' is '{}', expected a whole number", where, key, text);
  }
  return value;
}

}  // namespace unigrpo
