#include "monitor/silence_watch.h"

#include <charconv>

#include "base/error.h"

namespace unigrpo::monitor {

std::vector<std::string> SilenceWatch::observe(const std::map<std::string, bool>& silent) {
  std::vector<std::string> lasting;
  for (const auto& [name, is_silent] : silent) {
    int64_t& steps = steps_[name];
    steps = is_silent ? steps + 1 : 0;
    if (steps == kSteps) lasting.push_back(name);
  }
  return lasting;
}

std::map<std::string, std::string> SilenceWatch::state() const {
  std::map<std::string, std::string> state;
  for (const auto& [name, steps] : steps_) state[name] = std::to_string(steps);
  return state;
}

void SilenceWatch::restore(const std::map<std::string, std::string>& state, const std::string& where) {
  for (const auto& [name, text] : state) {
    const char* const end = text.data() + text.size();
    const auto [stop, error] = std::from_chars(text.data(), end, steps_[name]);
    if (error != std::errc() || stop != end) {
      throw BadInput("{}: {}: expected a number of steps, found '{}'", where, name, text);
    }
  }
}

}  // namespace unigrpo::monitor
