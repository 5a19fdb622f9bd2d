#include "train/sft_data.h"

#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "train/prompt_lines.h"

namespace unigrpo::train {

ShapesExamples::ShapesExamples(const std::string& prompts, data::shapes::NoiseConfig noise, uint64_t seed)
    : noise_(noise), seed_(seed) {
  for (const data::Prompt& prompt : data::read_prompt_file(prompts)) lines_.push_back(world_line(prompt));
}

data::shapes::Example ShapesExamples::draw(int64_t index) const {
  // Whole passes over the prompts, each in its own order, so that every prompt is drawn equally often.
  const auto count = static_cast<int64_t>(lines_.size());
  const int64_t line = batch_indices(index, 1, count, seed_).front();
  RandomStream stream({.seed = seed_, .sample = static_cast<uint64_t>(index), .purpose = Purpose::world_scene});
  return data::shapes::draw_example(lines_[line], noise_, stream);
}

std::vector<int64_t> batch_indices(int64_t step, int64_t batch_size, int64_t pool, uint64_t seed) {
  // Permutations are cached an epoch at a time by the caller's locality: steps come in order.
  static thread_local struct {
    int64_t epoch = -1, pool = 0;
    uint64_t seed = 0;
    std::vector<int64_t> order;
  } cache;
  std::vector<int64_t> indices;
  for (int64_t i = step * batch_size; i < (step + 1) * batch_size; ++i) {
    const int64_t epoch = i / pool;
    if (cache.epoch != epoch || cache.pool != pool || cache.seed != seed) {
      cache = {epoch, pool, seed, std::vector<int64_t>(pool)};
      std::iota(cache.order.begin(), cache.order.end(), 0);
      RandomStream stream({.seed = seed, .step = static_cast<uint64_t>(epoch), .purpose = Purpose::sft_order});
      for (int64_t k = pool - 1; k > 0; --k) {
        std::swap(cache.order[k], cache.order[stream.below(static_cast<uint64_t>(k) + 1)]);
      }
    }
    indices.push_back(cache.order[i % pool]);
  }
  return indices;
}

}  // namespace unigrpo::train
