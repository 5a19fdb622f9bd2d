#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/shapes_world.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// What a good policy says or draws next. A picture that is not trained on is only looked at by what follows.
struct SftTurn {
  std::string text;  // where there is no image
  std::optional<Image> image;
  bool trained = true;
};

/// One example of a task of the embedded world, in the order in which it is read.
struct SftExample {
  std::string prompt;
  std::vector<Image> pictures;  // of the prompt
  std::vector<SftTurn> target;
  bool draws = false;  // a picture is asked for: the prompt's own pictures come as VAE tokens too
};

/// Examples of the embedded world, drawn on demand: example i is a function of (seed, i) and the shares of the tasks
/// alone.
class ShapesExamples {
 public:
  /// `prompts`: a prompt file of the world; lines are used in turn.
  ShapesExamples(const std::string& prompts, const SftConfig& config, uint64_t seed);
  SftExample draw(int64_t index) const;
  /// The scene of example i, whatever its task: for the autoencoder.
  data::shapes::Example draw_world(int64_t index) const;

 private:
  const std::string& line(int64_t index) const;
  std::vector<std::string> lines_;
  SftConfig config_;
  uint64_t seed_;
};

/// Order of examples in training: step k's batch is a slice of seeded permutations of 0..pool-1, epoch after epoch.
std::vector<int64_t> batch_indices(int64_t step, int64_t batch_size, int64_t pool, uint64_t seed);

}  // namespace unigrpo::train
