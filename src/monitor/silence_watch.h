#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace unigrpo::monitor {

/// Counts for how many steps running something that should not last has lasted, by name.
class SilenceWatch {
 public:
  /// So many steps in a row are no chance.
  static constexpr int64_t kSteps = 5;

  /// One step. The names that have been so for kSteps steps with it: each is given once, and again only where it was
  /// otherwise in between.
  std::vector<std::string> observe(const std::map<std::string, bool>& silent);

  /// For how many steps running it has been so.
  int64_t steps(const std::string& name) const {
    const auto found = steps_.find(name);
    return found == steps_.end() ? 0 : found->second;
  }

  /// All that observe() remembers.
  std::map<std::string, std::string> state() const;
  /// The inverse. Throws BadInput naming `where` and the key.
  void restore(const std::map<std::string, std::string>& state, const std::string& where);

 private:
  std::map<std::string, int64_t> steps_;  // in a row, by name
};

}  // namespace unigrpo::monitor
