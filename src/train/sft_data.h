#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/shapes_world.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// Examples of the embedded world, drawn on demand: example i is a function of (seed, i) alone.
class ShapesExamples {
 public:
  /// `prompts`: a prompt file of the world; lines are used in turn.
  ShapesExamples(const std::string& prompts, data::shapes::NoiseConfig noise, uint64_t seed);
  data::shapes::Example draw(int64_t index) const;

 private:
  std::vector<std::string> lines_;
  data::shapes::NoiseConfig noise_;
  uint64_t seed_;
};

/// Order of examples in training: step k's batch is a slice of seeded permutations of 0..pool-1, epoch after epoch.
std::vector<int64_t> batch_indices(int64_t step, int64_t batch_size, int64_t pool, uint64_t seed);

}  // namespace unigrpo::train
