#include "policy/bagel.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/hash.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/model_folder.h"
#include "nn/patch.h"
#include "tensor/convert.h"
#include "tensor/rng.h"

namespace unigrpo::policy {
namespace {

int64_t special_id(const data::Tokenizer& tokenizer, const std::string& token, const std::filesystem::path& folder) {
  const auto found = tokenizer.special_tokens().find(token);
  if (found == tokenizer.special_tokens().end()) {
    throw BadInput("{}: the tokenizer has no special token '{}'", folder.string(), token);
  }
  return found->second;
}

std::map<std::string, at::Tensor> read_tensors(const std::filesystem::path& path, at::ScalarType dtype) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(path);
  std::map<std::string, at::Tensor> tensors;
  for (const io::TensorView* view : checkpoint.tensors()) {
    tensors.emplace(view->name, tensor::to_tensor(*view, dtype, at::kCPU));
  }
  return tensors;
}

std::filesystem::path weights_path(const std::filesystem::path& folder) {
  if (const auto found = find_weights(folder)) return *found;
  throw BadInput("{}: no ema.safetensors (or *.safetensors.index.json) in this model folder", folder.string());
}

bool ends_with(const std::string& text, std::string_view tail) { return text.ends_with(tail); }

}  // namespace

std::optional<std::filesystem::path> find_weights(const std::filesystem::path& folder) {
  for (const char* name : {"ema.safetensors", "ema.safetensors.index.json", "model.safetensors.index.json"}) {
    if (std::filesystem::exists(folder / name)) return folder / name;
  }
  return std::nullopt;
}

at::Tensor initial_weight(const BagelConfig& config, const std::string& name, const std::vector<int64_t>& shape,
                          uint64_t seed) {
  if (ends_with(name, "pos_embed.pos_embed")) {
    return nn::sincos_position_table(static_cast<int64_t>(std::lround(std::sqrt(shape[0]))), shape[1]);
  }
  if (ends_with(name, ".bias")) return at::zeros(shape, at::kFloat);
  if (shape.size() == 1) return at::ones(shape, at::kFloat);
  if (name.starts_with("llm2vae")) return at::zeros(shape, at::kFloat);
  double fan_in = 1;
  for (size_t i = 1; i < shape.size(); ++i) fan_in *= static_cast<double>(shape[i]);
  double std = 1.0 / std::sqrt(fan_in);
  if (name.find("o_proj") != std::string::npos || name.find("down_proj") != std::string::npos) {
    std /= std::sqrt(2.0 * static_cast<double>(config.llm.num_layers));
  }
  if (ends_with(name, "embed_tokens.weight")) std = 0.5;
  if (ends_with(name, "lm_head.weight") || ends_with(name, "position_embedding.weight")) std = 0.02;
  return tensor::normal(shape, {.seed = seed, .prompt = fnv1a64(name), .purpose = Purpose::parameter_init}) * std;
}

std::unique_ptr<Autoencoder> load_autoencoder(const std::filesystem::path& folder, const AutoencoderConfig& config) {
  const auto path = folder / "ae.safetensors";
  nn::Weights weights(path.string(), read_tensors(path, at::kFloat));
  auto autoencoder = std::make_unique<Autoencoder>(config, weights);
  weights.finish();
  return autoencoder;
}

std::unique_ptr<Bagel> Bagel::load(const PolicyConfig& config, uint64_t seed) {
  const std::filesystem::path folder = config.model;
  const BagelConfig sizes = read_bagel_config(folder);
  const auto path = weights_path(folder);
  const at::ScalarType dtype = config.dtype == DtypeChoice::bfloat16 ? at::kBFloat16 : at::kFloat;
  nn::Weights weights(path.string(), read_tensors(path, dtype));
  std::unique_ptr<Bagel> model(new Bagel(sizes, std::move(weights), load_autoencoder(folder, sizes.vae),
                                         data::open_tokenizer(folder), folder));
  const bool full = config.train == TrainMode::full;
  for (NamedTensor& parameter : model->parameters_) {
    const bool frozen = std::ranges::any_of(
        config.freeze, [&](const std::string& pattern) { return matches_pattern(parameter.name, pattern); });
    parameter.tensor.set_requires_grad(full && !frozen);
  }
  if (!full) model->attach_lora(config.lora, seed);
  model->llm_->set_recompute(config.recompute);
  return model;
}

std::unique_ptr<Bagel> Bagel::create(const std::filesystem::path& folder, uint64_t seed) {
  const BagelConfig sizes = read_bagel_config(folder);
  nn::Weights weights((folder / "config.json").string(),
                      [&](const std::string& name, const std::vector<int64_t>& shape) {
                        return initial_weight(sizes, name, shape, seed);
                      });
  return std::unique_ptr<Bagel>(new Bagel(sizes, std::move(weights), load_autoencoder(folder, sizes.vae),
                                          data::open_tokenizer(folder), folder));
}

Bagel::Bagel(const BagelConfig& config, nn::Weights weights, std::unique_ptr<Autoencoder> autoencoder,
             std::unique_ptr<data::Tokenizer> tokenizer, const std::filesystem::path& folder)
    : config_(config),
      llm_(std::make_unique<MotTransformer>(config.llm, weights, &adapters_on_)),
      vision_(std::make_unique<VisionTower>(config.vit, config.llm.hidden_size, config.vit_max_patches_per_side,
                                            weights)),
      autoencoder_(std::move(autoencoder)),
      tokenizer_(std::move(tokenizer)),
      cache_(config.llm.num_layers, config.llm.num_kv_heads, config.llm.head_dim(), at::TensorOptions(at::kFloat)) {
  Ends ends = take_ends(config, weights);
  vae2llm_ = std::move(ends.vae2llm);
  llm2vae_ = std::move(ends.llm2vae);
  time_fc1_ = std::move(ends.time_fc1);
  time_fc2_ = std::move(ends.time_fc2);
  latent_positions_ = ends.latent_positions;
  weights.finish();
  for (const auto& [name, tensor] : weights.tensors()) parameters_.push_back({name, tensor});
  cache_ = KvCache(config.llm.num_layers, config.llm.num_kv_heads, config.llm.head_dim(), latent_positions_.options());
  if (tokenizer_->vocab_size() > config.llm.vocab_size) {
    throw BadInput("{}: the tokenizer has {} ids, llm_config.json says vocab_size {}", folder.string(),
                   tokenizer_->vocab_size(), config.llm.vocab_size);
  }
  bos_ = special_id(*tokenizer_, "<|im_start|>", folder);
  eos_ = special_id(*tokenizer_, "<|im_end|>", folder);
  image_start_ = special_id(*tokenizer_, "<|vision_start|>", folder);
  image_end_ = special_id(*tokenizer_, "<|vision_end|>", folder);
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
  const auto nothing = [](const std::string&, const std::vector<int64_t>& shape) {
    return at::empty(shape, at::TensorOptions(at::kMeta).dtype(at::kFloat));
  };
  nn::Weights weights("config", nothing), autoencoder("config", nothing);
  const bool on = true;
  const MotTransformer llm(config.llm, weights, &on);
  const VisionTower vision(config.vit, config.llm.hidden_size, config.vit_max_patches_per_side, weights);
  take_ends(config, weights);
  const Autoencoder vae(config.vae, autoencoder);
  NamedTensors shapes;
  for (const auto& [name, tensor] : weights.tensors()) shapes.push_back({name, tensor});
  for (const auto& [name, tensor] : autoencoder.tensors()) shapes.push_back({"autoencoder." + name, tensor});
  return shapes;
}

void Bagel::attach_lora(const LoraConfig& lora, uint64_t seed) {
  int64_t attached = 0;
  llm_->for_each_linear([&](nn::Linear& linear) {
    const bool wanted = std::ranges::any_of(lora.targets, [&](const std::string& pattern) {
      return matches_pattern(linear.name + ".weight", pattern);
    });
    if (!wanted) return;
    // A: N(0, 1/in), B: 0, so that the adapted model starts as the base. Adapters are float32 masters of themselves.
    const int64_t out = linear.weight.size(0), in = linear.weight.size(1);
    auto adapter = std::make_unique<nn::LoraAdapter>();
    adapter->a = initial_weight(config_, linear.name + ".lora_A.weight", {lora.rank, in}, seed)
                     .to(linear.weight.options())
                     .set_requires_grad(true);
    adapter->b = at::zeros({out, lora.rank}, linear.weight.options()).set_requires_grad(true);
    adapter->scale = lora.alpha / static_cast<double>(lora.rank);
    parameters_.push_back({linear.name + ".lora_A.weight", adapter->a});
    parameters_.push_back({linear.name + ".lora_B.weight", adapter->b});
    linear.lora = std::move(adapter);
    ++attached;
  });
  if (attached == 0) throw BadInput("policy.lora.targets: no weight of the model matches [{}]", join(lora.targets, ", "));
}

NamedTensors Bagel::parameters() const { return parameters_; }

NamedTensors Bagel::merged() const {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::Tensor> changed;
  llm_->for_each_linear([&](const nn::Linear& linear) {
    if (!linear.lora) return;
    const at::Tensor update = at::mm(linear.lora->b.to(at::kFloat), linear.lora->a.to(at::kFloat));
    changed[linear.name + ".weight"] = (linear.weight.to(at::kFloat) + linear.lora->scale * update);
  });
  NamedTensors weights;
  for (const NamedTensor& parameter : parameters_) {
    if (parameter.name.find(".lora_") != std::string::npos) continue;
    const auto found = changed.find(parameter.name);
    weights.push_back({parameter.name, found == changed.end() ? parameter.tensor.detach() : found->second});
  }
  return weights;
}

uint64_t Bagel::adapter_state() const {
  uint64_t adapters = 0;
  for (const NamedTensor& parameter : parameters_) adapters += parameter.name.find(".lora_") != std::string::npos ? 1 : 0;
  return 2 * adapters + (adapters_on_ ? 1 : 0);
}

uint64_t Bagel::weights_version() const {
  uint64_t version = kFnvStart;
  for (const NamedTensor& parameter : parameters_) {
    version = fnv1a64(static_cast<uint64_t>(parameter.tensor._version()), version);
  }
  return version;
}

at::Device Bagel::device() const { return latent_positions_.device(); }

}  // namespace unigrpo::policy
