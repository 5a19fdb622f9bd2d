#pragma once

#include <filesystem>
#include <string_view>

namespace unigrpo::log {

/// Lines go to stderr (warnings and errors marked as such) and, once a file is set, to that file
/// with time stamps in UTC. Safe from several threads. spdlog is seen by log.cpp alone.
void info(std::string_view line);
void warn(std::string_view line);
void error(std::string_view line);
void to_file(const std::filesystem::path& path);  // appends; RuntimeFailure if it cannot be opened
void set_quiet(bool quiet);                       // info lines to the file only

}  // namespace unigrpo::log
