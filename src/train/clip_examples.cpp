#include "train/clip_examples.h"

#include "base/error.h"
#include "base/rng.h"
#include "data/prompt_file.h"
#include "data/worlds/av_world.h"

namespace unigrpo::train {

ClipExamples::ClipExamples(const std::string& file, double noise, uint64_t seed)
    : rows_(data::read_prompt_file(file)),
      noise_(noise),
      seed_(seed),
      order_(static_cast<int64_t>(rows_.size()), seed) {
  for (const data::Prompt& row : rows_) {
    try {
      data::av::scene_of_row(row.metadata_json, row.text);
    } catch (const BadInput& error) {
      throw BadInput("{}:{}: {}", file, row.line, error.what());
    }
  }
}

std::vector<int64_t> ClipExamples::batch(int64_t step, int64_t size) const {
  std::vector<int64_t> keys;
  for (int64_t i = 0; i < size; ++i) keys.push_back(order_.at(step * size + i));
  return keys;
}

media::Clip ClipExamples::clip(int64_t row) const {
  const data::Prompt& prompt = rows_[static_cast<size_t>(row)];
  const data::av::Scene asked = data::av::scene_of_row(prompt.metadata_json, prompt.text);
  RandomStream stream({.seed = seed_, .sample = static_cast<uint64_t>(row), .purpose = Purpose::sft_task});
  return data::av::render(stream.chance(noise_) ? data::av::spoiled(asked, stream) : asked);
}

}  // namespace unigrpo::train
