#include "policy/bagel/bagel.h"

#include <ATen/ATen.h>

#include <utility>

#include "policy/initial_weight.h"

namespace unigrpo::policy {

std::unique_ptr<Autoencoder> load_autoencoder(const std::filesystem::path& folder, const AutoencoderConfig& config,
                                              at::Device device) {
  nn::Weights weights = nn::open_weights(folder / "ae.safetensors", at::TensorOptions(at::kFloat).device(device));
  auto autoencoder = std::make_unique<Autoencoder>(config, weights);
  weights.finish();
  return autoencoder;
}

std::unique_ptr<Bagel> Bagel::load(const PolicyConfig& config, const Runtime& runtime) {
  const std::filesystem::path folder = config.model;
  const BagelConfig sizes = read_bagel_config(folder);
  nn::Weights weights = open_weights(config, sizes.llm, runtime);
  std::unique_ptr<Bagel> model(new Bagel(sizes, std::move(weights), load_autoencoder(folder, sizes.vae, runtime.device),
                                         data::open_tokenizer(folder), folder));
  model->prepare(config, runtime);
  return model;
}

std::unique_ptr<Bagel> Bagel::create(const std::filesystem::path& folder, const Runtime& runtime) {
  const BagelConfig sizes = read_bagel_config(folder);
  nn::Weights weights((folder / "config.json").string(),
                      [&](const std::string& name, const std::vector<int64_t>& shape) {
                        return initial_weight(sizes.llm, name, shape, runtime.seed).to(runtime.device);
                      });
  return std::unique_ptr<Bagel>(new Bagel(sizes, std::move(weights),
                                          load_autoencoder(folder, sizes.vae, runtime.device),
                                          data::open_tokenizer(folder), folder));
}

Bagel::Bagel(const BagelConfig& config, nn::Weights weights, std::unique_ptr<Autoencoder> autoencoder,
             std::unique_ptr<data::Tokenizer> tokenizer, const std::filesystem::path& folder)
    : MotPolicy(config.llm, weights, std::move(tokenizer), folder),
      config_(config),
      vision_(
          std::make_unique<VisionTower>(config.vit, config.llm.hidden_size, config.vit_max_patches_per_side, weights)),
      autoencoder_(std::move(autoencoder)) {
  Ends ends = take_ends(config, weights);
  vae2llm_ = std::move(ends.vae2llm);
  llm2vae_ = std::move(ends.llm2vae);
  time_fc1_ = std::move(ends.time_fc1);
  time_fc2_ = std::move(ends.time_fc2);
  latent_positions_ = ends.latent_positions;
  adopt(weights);
  image_start_ = special_id("<|vision_start|>");
  image_end_ = special_id("<|vision_end|>");
}

Bagel::Ends Bagel::take_ends(const BagelConfig& config, nn::Weights& weights) {
  const int64_t d = config.llm.hidden_size, c = config.latent_channels();
  Ends ends;
  ends.vae2llm = nn::take_linear(weights, "vae2llm", d, c, true);
  ends.llm2vae = nn::take_linear(weights, "llm2vae", c, d, true);
  ends.time_fc1 = nn::take_linear(weights, "time_embedder.mlp.0", d, BagelConfig::kTimeFeatures, true);
  ends.time_fc2 = nn::take_linear(weights, "time_embedder.mlp.2", d, d, true);
  ends.latent_positions =
      weights.take("latent_pos_embed.pos_embed", {config.max_latent_size * config.max_latent_size, d});
  return ends;
}

NamedTensors Bagel::shapes(const BagelConfig& config) {
  NamedTensors shapes = nn::shapes_taken([&](nn::Weights& weights) {
    const bool on = true;
    const MotTransformer llm(config.llm, weights, &on);
    const VisionTower vision(config.vit, config.llm.hidden_size, config.vit_max_patches_per_side, weights);
    take_ends(config, weights);
  });
  const NamedTensors autoencoder =
      nn::shapes_taken([&](nn::Weights& weights) { const Autoencoder vae(config.vae, weights); });
  for (const NamedTensor& weight : autoencoder) shapes.push_back({"autoencoder." + weight.name, weight.tensor});
  return shapes;
}

ModelSizes Bagel::read_sizes(const std::filesystem::path& folder) {
  const BagelConfig config = read_bagel_config(folder);
  return {.family = &family_of(folder),
          .llm = config.llm,
          .images = ModelSizes::Images{.pixels_per_latent = config.pixels_per_token(),
                                       .pixels_per_patch = config.vit.patch_size,
                                       .max_vision_side = config.vision_rule().max_size},
          .shapes = shapes(config)};
}

}  // namespace unigrpo::policy
