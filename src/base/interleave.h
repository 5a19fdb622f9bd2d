#pragma once

#include <algorithm>
#include <cstddef>
#include <numeric>
#include <span>
#include <vector>

namespace unigrpo {

/// Places of several lists laid end to end, mixed so that each list comes evenly: {2, 4} -> 2 0 3 4 1 5; ties go to the
/// first list. One list is left in its order.
inline std::vector<size_t> interleaved(std::span<const size_t> sizes) {
  std::vector<double> when;
  for (const size_t size : sizes) {
    for (size_t i = 0; i < size; ++i) when.push_back((static_cast<double>(i) + 0.5) / static_cast<double>(size));
  }
  std::vector<size_t> places(when.size());
  std::iota(places.begin(), places.end(), size_t{0});
  std::ranges::stable_sort(places, {}, [&](size_t place) { return when[place]; });
  return places;
}

}  // namespace unigrpo
