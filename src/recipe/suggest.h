#pragma once

#include <string>
#include <string_view>

#include "recipe/schema.h"

namespace unigrpo::recipe {

/// "unknown key, did you mean 'grpo.group_size'?", or, where no key of the whole schema is near,
/// what the table that it stands in has. `key` is dotted; `parent` is that table, nullptr at the
/// top, and `inside` ("http.") its sub-table, if any; `is_table`: it holds a table.
std::string unknown_key(std::string_view key, const Section* parent, bool is_table, std::string_view inside = "");

/// " (did you mean \"token\"?)" where one of an enum's names is near, else nothing.
std::string near_choice(std::string_view word, const EnumRef& value);

}  // namespace unigrpo::recipe
