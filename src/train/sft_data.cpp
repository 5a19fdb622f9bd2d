#include "train/sft_data.h"

#include <numeric>

#include "base/error.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "data/shapes_tasks.h"
#include "train/prompt_lines.h"

namespace unigrpo::train {

namespace shapes = data::shapes;

ShapesExamples::ShapesExamples(const std::string& prompts, const SftConfig& config, uint64_t seed)
    : config_(config), seed_(seed) {
  for (const data::Prompt& prompt : data::read_prompt_file(prompts)) lines_.push_back(world_line(prompt));
}

const std::string& ShapesExamples::line(int64_t index) const {
  // Whole passes over the prompts, each in its own order, so that every prompt is drawn equally often.
  return lines_[batch_indices(index, 1, static_cast<int64_t>(lines_.size()), seed_).front()];
}

shapes::Example ShapesExamples::draw_world(int64_t index) const {
  RandomStream stream({.seed = seed_, .sample = static_cast<uint64_t>(index), .purpose = Purpose::world_scene});
  return shapes::draw_example(line(index), {.wrong_plan = config_.wrong_plan, .wrong_scene = config_.wrong_scene},
                              stream);
}

SftExample ShapesExamples::draw(int64_t index) const {
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
    const shapes::TaskRow row = shapes::draw_answer_task(line(index), config_.wrong_answer, stream);
    example.prompt = row.prompt;
    example.pictures = {shapes::render(row.image)};
    say(row.text);
  } else if (chosen(config_.describe)) {
    const shapes::TaskRow row = shapes::draw_describe_task(line(index), stream);
    example.prompt = row.prompt;
    example.pictures = {shapes::render(row.image)};
    say(row.text);
  } else if (chosen(config_.edit)) {
    const shapes::TaskRow row = shapes::draw_edit_task(line(index), config_.wrong_plan, stream);
    example.draws = true;
    example.prompt = row.prompt;
    example.pictures = {shapes::render(row.image)};
    say(row.text);
    show(*row.drawn, true);
  } else if (chosen(config_.mend)) {
    const shapes::MendExample mend = shapes::draw_mend_example(
        line(index), {.wrong_plan = config_.wrong_plan, .wrong_scene = config_.wrong_first}, stream);
    example.draws = true;
    example.prompt = mend.prompt;
    say(mend.plan);
    show(mend.first, mend.first_fits);
    say(mend.verdict);
    show(mend.second, true);
  } else {
    const shapes::Example drawn = draw_world(index);
    example.draws = true;
    example.prompt = drawn.prompt;
    say(drawn.plan);
    show(drawn.scene, true);
  }
  return example;
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
