#pragma once

#include <sys/resource.h>

#include <algorithm>

namespace unigrpo {

/// From here on this process gets so much of a resource (RLIMIT_...) at most, or what it was allowed if that is less.
inline void limit_resource(__rlimit_resource resource, rlim_t value) {
  rlimit limits{};
  getrlimit(resource, &limits);
  limits.rlim_cur = std::min(value, limits.rlim_max);
  setrlimit(resource, &limits);
}

}  // namespace unigrpo
