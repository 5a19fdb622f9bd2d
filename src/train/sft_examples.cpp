#include "train/sft_examples.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "data/worlds/shapes_tasks.h"
#include "io/image_codec.h"

namespace unigrpo::train {

namespace shapes = data::shapes;

ShapesExamples::ShapesExamples(const std::string& file, std::span<const data::Prompt> prompts,
                               const recipe::SftConfig& config, uint64_t seed)
    : file_(file),
      config_(config),
      seed_(seed),
      line_order_(static_cast<int64_t>(prompts.size()), seed),
      order_(config.num_examples, seed + 1) {
  for (const data::Prompt& prompt : prompts) {
    lines_.push_back(shapes::world_line(prompt));
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
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < config_.batch_size; ++i) keys.push_back(order_.at(step * config_.batch_size + i));
  return keys;
}

std::string ShapesExamples::where(int64_t index) const {
  return fmt::format("{}: example {} of the embedded world", file_, index);
}

const std::string& ShapesExamples::line(int64_t index) const {
  // Whole passes over the prompts, each in its own order, so that every prompt is drawn equally often.
  return lines_[static_cast<size_t>(line_order_.at(index))];
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

std::vector<bool> ShapesExamples::trained_images(int64_t index) const {
  std::vector<bool> trained;
  for (const SftTurn& turn : example(index).target) trained.push_back(turn.image && turn.trained);
  return trained;
}

std::vector<int64_t> RowExamples::batch(int64_t step) const {
  std::vector<int64_t> keys;
  for (const data::Prompt& row : sampler_.batch(step).prompts) keys.push_back(row.index);
  return keys;
}

SftExample RowExamples::example(int64_t row) const {
  const data::Prompt& prompt = rows()[static_cast<size_t>(row)];
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

std::vector<bool> RowExamples::trained_images(int64_t row) const {
  std::vector<bool> trained;
  for (const data::TargetSegment& segment : rows()[static_cast<size_t>(row)].target) {
    trained.push_back(!segment.image.empty());
  }
  return trained;
}

std::string RowExamples::where(int64_t row) const {
  return fmt::format("{}:{}", file_, rows()[static_cast<size_t>(row)].line);
}

std::unique_ptr<Examples> open_examples(const recipe::Recipe& recipe, uint64_t seed) {
  const std::string& file = recipe.data.prompts;
  auto rows = data::read_prompt_file(file);
  const auto has_target = [](const data::Prompt& row) { return !row.target.empty(); };
  if (std::ranges::none_of(rows, has_target)) return std::make_unique<ShapesExamples>(file, rows, recipe.sft, seed);
  for (const data::Prompt& row : rows) {
    if (!has_target(row)) throw BadInput("{}:{}: target is missing; other rows of the file have one", file, row.line);
  }
  return std::make_unique<RowExamples>(file, std::move(rows), recipe.sft.batch_size, seed);
}

int64_t EpochOrder::at(int64_t position) const {
  constexpr int64_t kMaxKept = int64_t{1} << 24;  // entries
  const int64_t epoch = position / pool_;
  if (!epochs_.contains(epoch) && static_cast<int64_t>(epochs_.size() + 1) * pool_ > kMaxKept) epochs_.clear();
  std::vector<int64_t>& order = epochs_[epoch];
  if (order.empty()) {
    order.resize(static_cast<size_t>(pool_));
    std::iota(order.begin(), order.end(), 0);
    RandomStream stream({.seed = seed_, .step = static_cast<uint64_t>(epoch), .purpose = Purpose::sft_order});
    for (int64_t k = pool_ - 1; k > 0; --k) {
      std::swap(order[k], order[stream.below(static_cast<uint64_t>(k) + 1)]);
    }
  }
  return order[position % pool_];
}

}  // namespace unigrpo::train
