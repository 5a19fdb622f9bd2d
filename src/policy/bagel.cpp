#include "policy/bagel.h"

#include <algorithm>
#include <cmath>
#include <map>

#include <ATen/ATen.h>

#include "base/error.h"
#include "base/rng.h"
#include "base/text.h"
#include "io/model_folder.h"
#include "nn/patch.h"
#include "tensor/convert.h"
#include "tensor/rng.h"

namespace unigrpo::policy {
namespace {

constexpr int64_t kTimeFeatures = 256;  // of the official TimestepEmbedder

at::Tensor index_tensor(const std::vector<int64_t>& values, at::Device device) {
  return at::tensor(values, at::kLong).to(device);
}

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

void refuse_left_over(const nn::Weights& weights) {
  const auto names = weights.left_over();
  if (names.empty()) return;
  throw BadInput("{}: {} tensor(s) that the config does not ask for, the first is '{}'", weights.source(), names.size(),
                 names.front());
}

std::filesystem::path weights_path(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "ema.safetensors")) return folder / "ema.safetensors";
  for (const char* index : {"ema.safetensors.index.json", "model.safetensors.index.json"}) {
    if (std::filesystem::exists(folder / index)) return folder / index;
  }
  throw BadInput("{}: no ema.safetensors (or *.safetensors.index.json) in this model folder", folder.string());
}

bool ends_with(const std::string& text, std::string_view tail) { return text.ends_with(tail); }

}  // namespace

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
  uint64_t name_key = 0;
  for (const char c : name) name_key = name_key * 1099511628211ULL + static_cast<unsigned char>(c);
  return tensor::normal(shape, {.seed = seed, .prompt = name_key, .purpose = Purpose::parameter_init}) * std;
}

std::unique_ptr<Autoencoder> load_autoencoder(const std::filesystem::path& folder, const AutoencoderConfig& config) {
  const auto path = folder / "ae.safetensors";
  nn::Weights weights(path.string(), read_tensors(path, at::kFloat));
  auto autoencoder = std::make_unique<Autoencoder>(config, weights);
  refuse_left_over(weights);
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
  const int64_t d = config.llm.hidden_size, c = config.latent_channels();
  vae2llm_ = nn::take_linear(weights, "vae2llm", d, c, true);
  llm2vae_ = nn::take_linear(weights, "llm2vae", c, d, true);
  time_fc1_ = nn::take_linear(weights, "time_embedder.mlp.0", d, kTimeFeatures, true);
  time_fc2_ = nn::take_linear(weights, "time_embedder.mlp.2", d, d, true);
  latent_positions_ =
      weights.take("latent_pos_embed.pos_embed", {config.max_latent_size * config.max_latent_size, d});
  refuse_left_over(weights);
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

at::Device Bagel::device() const { return latent_positions_.device(); }

LatentGrid Bagel::grid_for(int64_t image_size) const {
  const int64_t pixels = config_.pixels_per_token();
  const int64_t side = image_size / pixels;
  if (image_size % pixels != 0 || side < 1 || side > config_.max_latent_size) {
    throw BadInput("rollout.image_size must be a multiple of {} up to {} for this model, got {}", pixels,
                   pixels * config_.max_latent_size, image_size);
  }
  return {side, side};
}

at::Tensor Bagel::embed_latents(const at::Tensor& latents, const at::Tensor& t, LatentGrid grid) const {
  const auto dtype = latent_positions_.scalar_type();
  const at::Tensor time =
      time_fc2_(at::silu(time_fc1_(nn::timestep_features(t, kTimeFeatures).to(dtype))));      // [N, D]
  const at::Tensor ids = nn::grid_position_ids(grid.height, grid.width, config_.max_latent_size).to(device());
  const at::Tensor positions = latent_positions_.index_select(0, ids);                        // [L, D]
  return (vae2llm_(latents.to(dtype)) + time.unsqueeze(1) + positions).flatten(0, 1);         // [N * L, D]
}

at::Tensor Bagel::append_text(std::span<Context* const> rows, std::span<const std::vector<int64_t>> ids) {
  const at::NoGradGuard no_grad;
  std::vector<nn::QueryBlock> blocks;
  std::vector<int64_t> flat, positions, slots, last;
  for (size_t i = 0; i < rows.size(); ++i) {
    Context& context = *rows[i];
    nn::QueryBlock block;
    const auto fresh = cache_.extend(context, static_cast<int64_t>(ids[i].size()));
    for (size_t k = 0; k < ids[i].size(); ++k) {
      block.queries.push_back(static_cast<int64_t>(flat.size()));
      flat.push_back(ids[i][k]);
      positions.push_back(context.position++);
    }
    slots.insert(slots.end(), fresh.begin(), fresh.end());
    block.keys = context.slots;
    blocks.push_back(std::move(block));
    last.push_back(static_cast<int64_t>(flat.size()) - 1);
  }
  const nn::AttentionLayout layout(blocks, {}, static_cast<int64_t>(flat.size()), device());
  const PackedTokens tokens{.num_und = static_cast<int64_t>(flat.size()),
                            .position_ids = index_tensor(positions, device()),
                            .layout = &layout,
                            .cache_slots = index_tensor(slots, device())};
  const at::Tensor hidden = llm_->forward(llm_->embed(index_tensor(flat, device())), tokens, &cache_);
  return llm_->logits(hidden.index_select(0, index_tensor(last, device()))).to(at::kFloat);
}

/// One image block a row: boundary tokens (understanding weights) around the latents, all at one rotary position.
class BagelDenoiser final : public Denoiser {
 public:
  BagelDenoiser(Bagel& model, std::span<const Context* const> rows, LatentGrid grid) : model_(model), grid_(grid) {
    const int64_t b = static_cast<int64_t>(rows.size()), tokens = grid.num_tokens();
    std::vector<nn::QueryBlock> blocks;
    std::vector<int64_t> positions(2 * b + b * tokens), slots(2 * b + b * tokens), boundary;
    for (int64_t i = 0; i < b; ++i) {
      scratch_.push_back(model.cache_.fork(*rows[i]));
      const auto fresh = model.cache_.extend(scratch_.back(), tokens + 2);
      nn::QueryBlock block;
      block.causal = false;
      block.keys = scratch_.back().slots;
      block.queries.push_back(2 * i);
      for (int64_t k = 0; k < tokens; ++k) block.queries.push_back(2 * b + i * tokens + k);
      block.queries.push_back(2 * i + 1);
      for (size_t k = 0; k < block.queries.size(); ++k) {
        positions[block.queries[k]] = rows[i]->position;
        slots[block.queries[k]] = fresh[k];
      }
      blocks.push_back(std::move(block));
      boundary.push_back(model.image_start_);
      boundary.push_back(model.image_end_);
    }
    layout_ = std::make_unique<nn::AttentionLayout>(blocks, std::span<const int64_t>{},
                                                    static_cast<int64_t>(positions.size()), model.device());
    packed_ = {.num_und = 2 * b,
               .position_ids = index_tensor(positions, model.device()),
               .layout = layout_.get(),
               .cache_slots = index_tensor(slots, model.device())};
    const at::NoGradGuard no_grad;
    boundary_ = model.llm_->embed(index_tensor(boundary, model.device()));
  }
  ~BagelDenoiser() override {
    for (Context& context : scratch_) model_.cache_.release(context);
  }
  BagelDenoiser(const BagelDenoiser&) = delete;
  BagelDenoiser& operator=(const BagelDenoiser&) = delete;

  at::Tensor velocity(const at::Tensor& latents, const at::Tensor& t) override {
    const at::NoGradGuard no_grad;
    const at::Tensor embeds = at::cat({boundary_, model_.embed_latents(latents, t, grid_)}, 0);
    const at::Tensor hidden = model_.llm_->forward(embeds, packed_, &model_.cache_);
    const at::Tensor drawn = hidden.narrow(0, packed_.num_und, hidden.size(0) - packed_.num_und);
    return model_.llm2vae_(drawn).to(at::kFloat).view(latents.sizes());
  }

 private:
  Bagel& model_;
  LatentGrid grid_;
  std::vector<Context> scratch_;
  std::unique_ptr<nn::AttentionLayout> layout_;
  PackedTokens packed_;
  at::Tensor boundary_;
};

std::unique_ptr<Denoiser> Bagel::denoise(std::span<const Context* const> rows, LatentGrid grid) {
  return std::make_unique<BagelDenoiser>(*this, rows, grid);
}

std::vector<Image> Bagel::decode(const at::Tensor& latents, LatentGrid grid) {
  const at::NoGradGuard no_grad;
  const at::Tensor maps = nn::unpatchify(latents.to(at::kFloat), grid.height, grid.width, config_.latent_patch_size);
  const at::Tensor pixels = (autoencoder_->decode(maps) * 0.5 + 0.5).clamp(0, 1) * 255.0;  // [B, 3, h, w]
  const at::Tensor bytes = pixels.round().to(at::kByte).permute({0, 2, 3, 1}).contiguous().cpu();
  std::vector<Image> images;
  for (int64_t i = 0; i < bytes.size(0); ++i) {
    const at::Tensor one = bytes[i];
    const auto* data = one.const_data_ptr<uint8_t>();
    images.push_back({.width = static_cast<int>(bytes.size(2)),
                      .height = static_cast<int>(bytes.size(1)),
                      .pixels = std::vector<uint8_t>(data, data + one.numel())});
  }
  return images;
}

at::Tensor Bagel::encode_images(const at::Tensor& images) const {
  const at::NoGradGuard no_grad;
  return nn::patchify(autoencoder_->encode_mean(images), config_.latent_patch_size);
}

TrainOutput Bagel::forward_train(const TrainBatch& batch) {
  // Rows: [prefixes | text blocks | image boundaries || latents]; blocks of one depth form a padded attention batch.
  struct Placed {
    std::vector<int64_t> visible;  // pool rows that later blocks of the sequence see
    int64_t position = 0;
  };
  std::vector<int64_t> und_ids, positions;
  std::vector<nn::QueryBlock> prefix_blocks;
  std::vector<Placed> prefixes;
  for (const auto& prefix : batch.prefixes) {
    nn::QueryBlock block;
    Placed placed;
    for (const int64_t id : prefix) {
      block.queries.push_back(static_cast<int64_t>(und_ids.size()));
      und_ids.push_back(id);
      positions.push_back(placed.position++);
    }
    block.keys = block.queries;
    placed.visible = block.queries;
    prefixes.push_back(std::move(placed));
    if (!block.queries.empty()) prefix_blocks.push_back(std::move(block));
  }

  size_t depth = 0;
  for (const TrainSequence& sequence : batch.sequences) depth = std::max(depth, sequence.blocks.size());
  struct Noisy {
    const TrainBlock* block;
    std::vector<int64_t> context;
    int64_t position, first_boundary;
  };
  std::vector<std::vector<nn::QueryBlock>> text_parts(depth);
  std::vector<std::vector<Noisy>> noisy_parts(depth);
  std::vector<int64_t> text_rows;
  std::vector<at::Tensor> latents, times;
  LatentGrid grid;
  for (const TrainSequence& sequence : batch.sequences) {
    Placed placed = prefixes.at(sequence.prefix);
    for (size_t k = 0; k < sequence.blocks.size(); ++k) {
      const TrainBlock& source = sequence.blocks[k];
      if (source.kind == TrainBlock::Kind::text) {
        nn::QueryBlock block;
        for (const int64_t id : source.ids) {
          block.queries.push_back(static_cast<int64_t>(und_ids.size()));
          und_ids.push_back(id);
          positions.push_back(placed.position++);
        }
        text_rows.insert(text_rows.end(), block.queries.begin(), block.queries.end());
        placed.visible.insert(placed.visible.end(), block.queries.begin(), block.queries.end());
        block.keys = placed.visible;
        if (!block.queries.empty()) text_parts[k].push_back(std::move(block));
      } else {
        grid = source.grid;
        noisy_parts[k].push_back({&source, placed.visible, placed.position, static_cast<int64_t>(und_ids.size())});
        for (int64_t s = 0; s < source.latents.size(0); ++s) {
          und_ids.insert(und_ids.end(), {image_start_, image_end_});
          positions.insert(positions.end(), 2, placed.position);
        }
        latents.push_back(source.latents);
        times.push_back(source.t);
      }
    }
  }

  const auto num_und = static_cast<int64_t>(und_ids.size());
  int64_t num_rows = num_und;
  std::vector<nn::QueryBlock> blocks = std::move(prefix_blocks);
  std::vector<int64_t> part_sizes;
  if (!blocks.empty()) part_sizes.push_back(static_cast<int64_t>(blocks.size()));
  // Latent rows follow in the order in which `latents` was collected: sequence by sequence.
  std::map<const TrainBlock*, int64_t> first_latent;
  for (const TrainSequence& sequence : batch.sequences) {
    for (const TrainBlock& block : sequence.blocks) {
      if (block.kind != TrainBlock::Kind::noisy_image) continue;
      first_latent[&block] = num_rows;
      num_rows += block.latents.size(0) * block.latents.size(1);
    }
  }
  positions.resize(num_rows);
  const int64_t shift = batch.detach_context ? num_rows : 0;  // the detached copies stand behind the rows
  for (size_t k = 0; k < depth; ++k) {
    if (!text_parts[k].empty()) {
      part_sizes.push_back(static_cast<int64_t>(text_parts[k].size()));
      for (auto& block : text_parts[k]) blocks.push_back(std::move(block));
    }
    int64_t count = 0;
    for (const Noisy& noisy : noisy_parts[k]) {
      const int64_t states = noisy.block->latents.size(0), tokens = noisy.block->latents.size(1);
      for (int64_t s = 0; s < states; ++s, ++count) {
        nn::QueryBlock block;
        block.causal = false;
        block.keys = noisy.context;
        for (int64_t& key : block.keys) key += shift;
        block.queries.push_back(noisy.first_boundary + 2 * s);
        for (int64_t i = 0; i < tokens; ++i) {
          const int64_t row = first_latent.at(noisy.block) + s * tokens + i;
          block.queries.push_back(row);
          positions[row] = noisy.position;
        }
        block.queries.push_back(noisy.first_boundary + 2 * s + 1);
        block.keys.insert(block.keys.end(), block.queries.begin(), block.queries.end());
        blocks.push_back(std::move(block));
      }
    }
    if (count > 0) part_sizes.push_back(count);
  }

  const nn::AttentionLayout layout(blocks, part_sizes, num_rows, device());
  const PackedTokens tokens{.num_und = num_und,
                            .position_ids = index_tensor(positions, device()),
                            .layout = &layout,
                            .cache_slots = {},
                            .detached_copy = batch.detach_context};
  at::Tensor embeds = llm_->embed(index_tensor(und_ids, device()));
  at::Tensor all_latents;
  if (!latents.empty()) {
    all_latents = at::cat(latents, 0);
    embeds = at::cat({embeds, embed_latents(all_latents, at::cat(times, 0), grid)}, 0);
  }
  const at::Tensor hidden = llm_->forward(embeds, tokens, nullptr);
  TrainOutput output;
  if (!text_rows.empty()) output.text_hidden = hidden.index_select(0, index_tensor(text_rows, device()));
  if (all_latents.defined()) {
    output.velocity =
        llm2vae_(hidden.narrow(0, num_und, num_rows - num_und)).to(at::kFloat).view(all_latents.sizes());
  }
  return output;
}

}  // namespace unigrpo::policy
