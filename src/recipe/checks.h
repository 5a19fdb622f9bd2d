#pragma once

#include <optional>
#include <string>
#include <vector>

#include "recipe/parse.h"

namespace unigrpo::recipe {

/// Two or more values, each in range, that do not go together.
struct Conflict {
  std::vector<std::string> keys;  // the first one is the one to name; the others took part
  std::string message;            // without the key
};

/// What a judge lacks, with its key, where it is asked for by its kind alone; empty where it lacks nothing.
std::optional<std::string> find_reward_conflict(const reward::TermConfig& term);

/// The first conflict of a recipe whose values are in range; empty where there is none.
std::optional<Conflict> find_conflict(const Recipe& recipe, Command command);

}  // namespace unigrpo::recipe
