#include "policy/qwen2/qwen2.h"

#include <ATen/ATen.h>

#include <utility>

#include "base/error.h"
#include "policy/placement.h"
#include "tensor/convert.h"

namespace unigrpo::policy {

using tensor::index_tensor;

MotConfig read_qwen2_config(const std::filesystem::path& folder) {
  require_family(folder, "qwen2");
  return read_mot_config(io::JsonSection::open(folder / "config.json"),
                         {.rope_theta = 1e4, .prefix = "", .generation_expert = false, .qk_norm = false});
}

void refuse_images(const std::string& folder) {
  throw BadInput("{}: a Qwen2.5 model reads and writes text only: prompts without images, and episode = [\"text\"]",
                 folder);
}

void Qwen2::refuse_images() const { policy::refuse_images(folder().string()); }

std::unique_ptr<Qwen2> Qwen2::load(const PolicyConfig& config, const Runtime& runtime) {
  const std::filesystem::path folder = config.model;
  const MotConfig sizes = read_qwen2_config(folder);
  nn::Weights weights = open_weights(config, sizes, runtime);
  std::unique_ptr<Qwen2> model(new Qwen2(sizes, std::move(weights), data::open_tokenizer(folder), folder));
  model->prepare(config, runtime);
  return model;
}

Qwen2::Qwen2(const MotConfig& config, nn::Weights weights, std::unique_ptr<data::Tokenizer> tokenizer,
             const std::filesystem::path& folder)
    : MotPolicy(config, weights, std::move(tokenizer), folder) {
  adopt(weights);
}

NamedTensors Qwen2::shapes(const MotConfig& config) {
  return nn::shapes_taken([&](nn::Weights& weights) {
    const bool on = true;
    const MotTransformer llm(config, weights, &on);
  });
}

ModelSizes Qwen2::read_sizes(const std::filesystem::path& folder) {
  const MotConfig llm = read_qwen2_config(folder);
  return {.family = &family_of(folder), .llm = llm, .images = {}, .shapes = shapes(llm)};
}

MotPolicy::TrainForward Qwen2::begin_train(const TrainBatch& batch) const {
  TrainForward forward{.placed = Placement(batch, bos_id(), eos_id())};
  const Placement& placed = forward.placed;
  if (placed.num_rows != placed.num_und || !placed.vision.empty()) refuse_images();
  if (placed.text_rows.empty()) return forward;
  forward.ids = index_tensor(placed.und_ids);
  forward.text_rows = index_tensor(placed.text_rows);
  forward.tokens = packed(placed, batch.update, {&forward.ids, &forward.text_rows});
  return forward;
}

at::Tensor Qwen2::embeds_of(const TrainForward& forward) const { return llm_->embed(forward.ids); }

TrainOutput Qwen2::finish_train(const TrainForward& forward, const at::Tensor& hidden) const {
  return {.text_hidden = text_hidden(hidden, forward.tokens, forward.placed, forward.text_rows),
          .velocity = {},
          .digests = forward.placed.digests};
}

}  // namespace unigrpo::policy
