#pragma once

#include <string>
#include <vector>

namespace unigrpo {

/// Values of a recipe, each in its range, that do not go together. `validate` in a folder's rules.h finds the first
/// one in what its config.h holds.
struct Conflict {
  std::vector<std::string> keys;  // as the recipe spells them: the first one is the one to name, the others took part
  std::string message;            // without the key
};

}  // namespace unigrpo
