#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "recipe/recipe.h"

namespace unigrpo::recipe {

/// Which command reads the recipe: some keys are required by one command only.
enum class Command { train, sft, check };

/// Reads a recipe file and applies `--set key=value` overrides in order. Strict: an unknown key, a
/// wrong type, a value out of range or a missing required key throws BadInput `file:line:column:
/// key: ...` with the nearest valid key; an override's error names the argument (`--set
/// grpo.grop_size=3: ...`), a missing key's the file alone. An error in the file comes before one
/// in an override, and one in a single value before values that do not go together. Lists of tables
/// are reached by index (`rewards.0.weight=0.5`) or replaced whole (`rewards=[{kind = "format"}]`).
Recipe parse(const std::filesystem::path& path, const std::vector<std::string>& overrides, Command command);

/// The same from a text; `name` stands for the file in messages.
Recipe parse_text(std::string_view text, const std::string& name, const std::vector<std::string>& overrides,
                  Command command);

/// The recipe as TOML with every key, of a reward those that its kind has, in schema order; parse(write) gives the same
/// recipe.
std::string to_toml(const Recipe& recipe);

/// Every key with type, default, range and meaning, as `unigrpo recipe --explain` prints it.
std::string explain();

/// Dotted keys whose values differ between two recipes, in schema order.
std::vector<std::string> differing_keys(const Recipe& a, const Recipe& b);

}  // namespace unigrpo::recipe
