#pragma once

#include <optional>

#include "base/conflict.h"
#include "recipe/parse.h"

namespace unigrpo::recipe {

/// The first conflict of a recipe whose values are in range; empty where there is none. What may go with what is said
/// by the rules.h of the folders whose configs they are; here stand the rules of [eval] and [sft].
std::optional<Conflict> find_conflict(const Recipe& recipe, Command command);

}  // namespace unigrpo::recipe
