#include "train/sft_examples.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "data/worlds/shapes_tasks.h"
#include "io/image_codec.h"
#include "train/prompt_lines.h"

namespace unigrpo::train {

namespace shapes = data::shapes;

ShapesExamples::ShapesExamples(const std::string& file, std::span<const data::Prompt> prompts,
                               const recipe::SftConfig& config, uint64_t seed)
    : config_(config), seed_(seed) {
  for (const data::Prompt& prompt : prompts) {
    lines_.push_back(world_line(prompt));
    try {
      RandomStream stream({.seed = seed});
      shapes::draw_scene(lines_.back(), stream);
    } catch (const BadInput& error) {
      throw BadInput("{}:{}: the row has no target, and is no prompt of the embedded world: {}", file, prompt.line,
                     error.what());
    }
  }
}

std::vector<int64_t> ShapesExamples::batch(int64_t step) const {
  return batch_indices(step, config_.batch_size, config_.num_examples, seed_ + 1);
}

const std::string& ShapesExamples::line(int64_t index) const {
  // Whole passes over the prompts, each in its own order, so that every prompt is drawn equally often.
  return lines_[batch_indices(index, 1, static_cast<int64_t>(lines_.size()), seed_).front()];
}

shapes::Example ShapesExamples::draw_world(int64_t index) const {
  RandomStream stream({.seed = seed_, .sample = static_cast<uint64_t>(index), .purpose = Purpose::world_scene});
  return shapes::draw_example(line(index), {.plan_noise = config_.plan_noise, .scene_noise = config_.scene_noise},
                              stream);
}

SftExample ShapesExamples::example(int64_t index) const {
  const auto sample = static_cast<uint64_t>(index);
  RandomStream choice({.seed = seed_, .sample = sample, .purpose = Purpose::sft_task});
  double u = choice.uniform();
  auto chosen = [&](double share) {
    u -= share;
    return u < 0;
  };
  RandomStream stream({.seed = seed_, .sample = sample, .purpose = Purpose::world_scene});
  SftExample example;
  auto say = [&](const std::string& text) { example.target.push_back({.text = text, .image = {}}); };
  auto show = [&](const shapes::Scene& scene, bool trained) {
    example.target.push_back({.text = {}, .image = shapes::render(scene), .trained = trained});
  };
  if (chosen(config_.answer)) {
    const shapes::TaskRow row = shapes::draw_answer_task(line(index), config_.answer_noise, stream);
    example.prompt = row.prompt;
    example.images = {shapes::render(row.image)};
    say(row.text);
  } else if (chosen(config_.describe)) {
    const shapes::TaskRow row = shapes::draw_describe_task(line(index), stream);
    example.prompt = row.prompt;
    example.images = {shapes::render(row.image)};
    say(row.text);
  } else if (chosen(config_.edit)) {
    const shapes::TaskRow row = shapes::draw_edit_task(line(index), config_.plan_noise, stream);
    example.draws = true;
    example.prompt = row.prompt;
    example.images = {shapes::render(row.image)};
    say(row.text);
    show(*row.drawn, true);
  } else if (chosen(config_.self_correct)) {
    const shapes::SelfCorrectExample self_correct = shapes::draw_self_correct_example(
        line(index), {.plan_noise = config_.plan_noise, .scene_noise = config_.first_image_noise}, stream);
    example.draws = true;
    example.prompt = self_correct.prompt;
    say(self_correct.plan);
    show(self_correct.first, self_correct.first_fits);
    say(self_correct.verdict);
    show(self_correct.second, true);
  } else {
    const shapes::Example drawn = draw_world(index);
    example.draws = true;
    example.prompt = drawn.prompt;
    say(drawn.plan);
    show(drawn.scene, true);
  }
  return example;
}

RowExamples::RowExamples(std::vector<data::Prompt> rows, int64_t batch_size, uint64_t seed)
    : rows_(std::move(rows)), sampler_(rows_, seed, batch_size) {}

std::vector<int64_t> RowExamples::batch(int64_t step) const {
  std::vector<int64_t> keys;
  for (const data::Prompt& row : sampler_.batch(step).prompts) keys.push_back(row.index);
  return keys;
}

SftExample RowExamples::example(int64_t row) const {
  const data::Prompt& prompt = rows_.at(static_cast<size_t>(row));
  SftExample example{.prompt = prompt.text, .images = data::read_prompt_images(prompt)};
  for (const data::TargetSegment& segment : prompt.target) {
    if (segment.image.empty()) {
      example.target.push_back({.text = segment.text});
    } else {
      example.target.push_back({.image = io::read_image(segment.image)});
      example.draws = true;
    }
  }
  return example;
}

std::unique_ptr<Examples> open_examples(const recipe::Recipe& recipe, uint64_t seed) {
  const std::string& file = recipe.data.prompts;
  auto rows = data::read_prompt_file(file);
  const auto has_target = [](const data::Prompt& row) { return !row.target.empty(); };
  if (std::ranges::none_of(rows, has_target)) return std::make_unique<ShapesExamples>(file, rows, recipe.sft, seed);
  for (const data::Prompt& row : rows) {
    if (!has_target(row)) throw BadInput("{}:{}: target is missing; other rows of the file have one", file, row.line);
  }
  return std::make_unique<RowExamples>(std::move(rows), recipe.sft.batch_size, seed);
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
