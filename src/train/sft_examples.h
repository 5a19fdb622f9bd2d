#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "data/prompt.h"
#include "data/prompt_sampler.h"
#include "data/worlds/shapes_world.h"
#include "recipe/recipe.h"

namespace unigrpo::train {

/// What a good policy says or draws next. An image that is not trained on is only looked at by what follows.
struct SftTurn {
  std::string text = {};  // where there is no image
  std::optional<Image> image = {};
  bool trained = true;
};

/// One example of a task of the embedded world, in the order in which it is read.
struct SftExample {
  std::string prompt;
  std::vector<Image> images = {};  // of the prompt
  std::vector<SftTurn> target = {};
  bool draws = false;  // an image is asked for: the prompt's own images come as VAE tokens too
};

/// What a run is trained on: examples by key, and the keys of each step.
class Examples {
 public:
  virtual ~Examples() = default;
  virtual std::vector<int64_t> batch(int64_t step) const = 0;
  /// Throws BadInput naming the file that cannot be read.
  virtual SftExample example(int64_t key) const = 0;
  /// Turn by turn, whether it is an image that is trained on; without reading any file.
  virtual std::vector<bool> trained_images(int64_t key) const = 0;
  /// Where it stands, for messages: file:line.
  virtual std::string where(int64_t key) const = 0;
  /// A user's rows, by key; empty where examples are made on demand.
  virtual std::span<const data::Prompt> rows() const { return {}; }
};

/// Order of things in training: seeded permutations of 0..pool-1, epoch after epoch.
class EpochOrder {
 public:
  EpochOrder(int64_t pool, uint64_t seed) : pool_(pool), seed_(seed) {}
  int64_t at(int64_t position) const;

 private:
  int64_t pool_;
  uint64_t seed_;
  mutable std::map<int64_t, std::vector<int64_t>> epochs_;  // those asked for, as long as they are few
};

/// Examples of the embedded world, drawn on demand: example i is a function of (seed, i) and the shares of the tasks
/// alone, i below config.num_examples.
class ShapesExamples : public Examples {
 public:
  /// `prompts`: rows of the world, from `file`; they are used in turn. Throws BadInput `file:line` for one that is
  /// none.
  ShapesExamples(const std::string& file, std::span<const data::Prompt> prompts, const recipe::SftConfig& config,
                 uint64_t seed);
  std::vector<int64_t> batch(int64_t step) const override;
  SftExample example(int64_t index) const override;
  std::vector<bool> trained_images(int64_t index) const override;
  std::string where(int64_t index) const override;
  /// The scene of example i, whatever its task: for the autoencoder.
  data::shapes::Example draw_world(int64_t index) const;

 private:
  const std::string& line(int64_t index) const;
  std::string file_;
  std::vector<std::string> lines_;
  recipe::SftConfig config_;
  uint64_t seed_;
  EpochOrder line_order_, order_;
};

/// A user's rows: the prompt with its images, and its `target`. The key is the row's index; the order is that of
/// prompts in reinforcement learning (data/prompt_sampler.h).
class RowExamples : public Examples {
 public:
  RowExamples(std::string file, std::vector<data::Prompt> rows, int64_t batch_size, uint64_t seed)
      : file_(std::move(file)), sampler_(std::move(rows), seed, batch_size) {}
  std::vector<int64_t> batch(int64_t step) const override;
  SftExample example(int64_t row) const override;
  std::vector<bool> trained_images(int64_t row) const override;
  std::string where(int64_t row) const override;
  std::span<const data::Prompt> rows() const override { return sampler_.prompts(); }

 private:
  std::string file_;
  data::PromptSampler sampler_;
};

/// The prompt file's own rows where they have a `target`, else the embedded world's. Throws BadInput `file:line` where
/// some rows have one and others have not.
std::unique_ptr<Examples> open_examples(const recipe::Recipe& recipe, uint64_t seed);

}  // namespace unigrpo::train
