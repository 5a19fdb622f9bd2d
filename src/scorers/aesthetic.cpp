#include "scorers/aesthetic.h"

#include <ATen/ATen.h>

#include <charconv>
#include <set>
#include <string>
#include <utility>

#include "base/error.h"
#include "nn/linear.h"
#include "scorers/clip_model.h"
#include "scorers/images.h"

namespace unigrpo::scorers {
namespace {

using reward::Score;

constexpr const char* kHeadFile = "aesthetic.safetensors";

/// The modules of a head in the order of their numbers: {""} of a linear one, {"layers.0.", "layers.2.", ...} of an
/// MLP, whose dropouts count.
std::vector<std::string> module_names(const nn::Weights& weights) {
  if (weights.has("weight")) return {""};
  constexpr std::string_view kFront = "layers.", kBack = ".weight";
  std::set<int> numbers;
  for (const auto& [name, tensor] : weights.tensors()) {
    if (!name.starts_with(kFront) || !name.ends_with(kBack)) continue;
    int number = 0;
    const char* last = name.data() + name.size() - kBack.size();
    const auto [stop, error] = std::from_chars(name.data() + kFront.size(), last, number);
    if (error == std::errc() && stop == last) numbers.insert(number);
  }
  std::vector<std::string> names;
  for (const int number : numbers) names.push_back("layers." + std::to_string(number) + ".");
  return names;
}

/// Layers from embeddings of `width` down to one number.
std::vector<nn::Linear> read_head(const std::filesystem::path& path, int64_t width) {
  nn::Weights weights = nn::open_weights(path, at::kFloat);
  const std::vector<std::string> names = module_names(weights);
  if (names.empty())
    throw BadInput("{}: holds no aesthetic head: neither 'weight' nor 'layers.N.weight'", path.string());
  std::vector<nn::Linear> layers;
  for (const std::string& name : names) {
    const bool is_last = name == names.back();
    const auto shape = weights.tensors().at(name + "weight").sizes();
    const int64_t out = is_last || shape.empty() ? 1 : shape[0];
    nn::Linear& layer = layers.emplace_back();
    layer.weight = weights.take(name + "weight", {out, width});
    layer.bias = weights.take(name + "bias", {out});
    width = out;
  }
  weights.finish();
  return layers;
}

class AestheticReward final : public reward::Reward {
 public:
  AestheticReward(const std::filesystem::path& folder, const ScorerOptions& options)
      : batch_size_(options.batch_size),
        model_(ClipModel::load(folder, ClipModel::Towers::image)),
        image_config_(read_clip_image_config(folder, model_.config().image_size)),
        head_(read_head(folder / kHeadFile, model_.config().projection_dim)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    const at::NoGradGuard no_grad;
    std::vector<Score> scores(samples.size());
    const ImagesToJudge judged = images_to_judge(samples, scores);
    if (judged.rows.empty()) return scores;
    at::Tensor x = embed_images(model_, image_config_, judged.images, batch_size_);
    for (const nn::Linear& layer : head_) x = layer(x);
    for (size_t i = 0; i < judged.rows.size(); ++i) {
      scores[judged.rows[i]].value = x.const_data_ptr<float>()[i];  // [N, 1]
    }
    return scores;
  }

 private:
  int64_t batch_size_;
  ClipModel model_;
  ClipImageConfig image_config_;
  std::vector<nn::Linear> head_;
};

}  // namespace

std::unique_ptr<reward::Reward> make_aesthetic_scorer(const std::filesystem::path& folder,
                                                      const ScorerOptions& options) {
  return std::make_unique<AestheticReward>(folder, options);
}

}  // namespace unigrpo::scorers
