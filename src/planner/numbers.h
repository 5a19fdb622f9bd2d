#pragma once

#include <cstdint>
#include <limits>

namespace unigrpo::planner {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();
inline constexpr double kMib = 1024.0 * 1024.0;
inline constexpr double kContextMb = 1024;  // of the device's runtime

inline double real(int64_t value) { return static_cast<double>(value); }

}  // namespace unigrpo::planner
