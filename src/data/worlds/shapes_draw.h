#pragma once

#include <algorithm>
#include <array>
#include <initializer_list>
#include <string>
#include <vector>

#include "data/worlds/shapes_world.h"

/// What the world and its tasks draw and say with.
namespace unigrpo::data::shapes {

inline constexpr std::array kNumberNames = {"zero", "one", "two", "three", "four", "five"};

inline std::string shape_name(Shape shape) { return kShapeNames[static_cast<size_t>(shape)]; }
inline std::string color_name(Color color) { return kColorNames[static_cast<size_t>(color)]; }

template <typename E, size_t N>
E draw_enum(const std::array<const char*, N>&, RandomStream& stream) {
  return static_cast<E>(stream.below(N));
}

/// Uniform over the values that are not in `taken` (which lacks at least one).
template <typename E, size_t N>
E draw_other(const std::array<const char*, N>& names, std::initializer_list<E> taken, RandomStream& stream) {
  while (true) {
    const E value = draw_enum<E>(names, stream);
    if (std::find(taken.begin(), taken.end(), value) == taken.end()) return value;
  }
}

template <typename T>
const T& draw_item(const std::vector<T>& items, RandomStream& stream) {
  return items[static_cast<size_t>(stream.below(items.size()))];
}

}  // namespace unigrpo::data::shapes
