#pragma once

#include <nlohmann/json_fwd.hpp>

#include "cli/model_commands.h"

namespace unigrpo::cli {

/// The file beside a profile's that says where it is from.
const char* about_file(const ProfileOptions& options);

/// Writes that file, and prints the folder.
void tell_profile(const ProfileOptions& options, bool measured, nlohmann::json about);

}  // namespace unigrpo::cli
