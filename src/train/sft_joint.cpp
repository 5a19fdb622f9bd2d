#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include "base/rng.h"
#include "base/text.h"
#include "checkpoint/export_model.h"
#include "flow/matching_loss.h"
#include "kernels/gather_log_prob.h"
#include "optim/adamw.h"
#include "optim/ema.h"
#include "optim/grad_clip.h"
#include "optim/schedule.h"
#include "policy/bagel.h"
#include "tensor/rng.h"
#include "train/sft_data.h"
#include "train/sft_stages.h"

namespace unigrpo::train {
namespace {

/// An example as the model reads it.
struct Turn {
  std::vector<int64_t> ids = {};  // text: a block, bos ids eos
  at::Tensor latents = {};        // image: [L, C]
  bool trained = true;
  std::vector<policy::Block> context = {};  // image: what later turns see of it; empty at the end
};

struct Encoded {
  std::vector<policy::Block> prefix;
  std::vector<Turn> turns;
};

/// The pictures of a stretch of examples go through the autoencoder together. All of them draw, or none does.
std::vector<Encoded> encode(policy::Bagel& model, const std::vector<SftExample>& examples, bool draw) {
  std::vector<Image> images;
  for (const SftExample& example : examples) {
    images.insert(images.end(), example.pictures.begin(), example.pictures.end());
    for (const SftTurn& turn : example.target) {
      if (turn.image) images.push_back(*turn.image);
    }
  }
  auto blocks = images.empty() ? std::vector<std::vector<policy::Block>>{} : model.read_images(images, draw);
  size_t next = 0;
  std::vector<Encoded> all;
  for (const SftExample& example : examples) {
    Encoded& encoded = all.emplace_back();
    for (size_t i = 0; i < example.pictures.size(); ++i, ++next) {
      encoded.prefix.insert(encoded.prefix.end(), blocks[next].begin(), blocks[next].end());
    }
    encoded.prefix.push_back(policy::text_block(policy::block_ids(model, example.prompt)));
    for (size_t k = 0; k < example.target.size(); ++k) {
      const SftTurn& turn = example.target[k];
      if (!turn.image) {
        encoded.turns.push_back({.ids = policy::block_ids(model, turn.text)});
        continue;
      }
      Turn drawn{.latents = blocks[next].front().latents, .trained = turn.trained};
      if (k + 1 < example.target.size()) drawn.context = blocks[next];
      encoded.turns.push_back(std::move(drawn));
      ++next;
    }
  }
  return all;
}

/// The examples of a run, read and encoded once.
std::vector<Encoded> encode_pool(policy::Bagel& model, const ShapesExamples& examples, int64_t size) {
  constexpr int64_t kEncodeBatch = 64;
  std::vector<Encoded> pool(static_cast<size_t>(size));
  for (int64_t first = 0; first < size; first += kEncodeBatch) {
    std::array<std::vector<SftExample>, 2> stretch;  // by whether they draw: what only looks needs no latents
    std::array<std::vector<size_t>, 2> places;
    for (int64_t i = first; i < std::min(size, first + kEncodeBatch); ++i) {
      SftExample example = examples.draw(i);
      const size_t draws = example.draws ? 1 : 0;
      stretch[draws].push_back(std::move(example));
      places[draws].push_back(static_cast<size_t>(i));
    }
    for (const size_t draws : {0U, 1U}) {
      auto encoded = encode(model, stretch[draws], draws == 1);
      for (size_t k = 0; k < encoded.size(); ++k) pool[places[draws][k]] = std::move(encoded[k]);
    }
  }
  return pool;
}

/// t in (0, 1), logit-normal and shifted as BAGEL's training draws it: u = sigmoid(n), t = s u / (1 + (s - 1) u).
at::Tensor draw_times(int64_t count, double shift, RandomStream& stream) {
  at::Tensor t = at::empty({count}, at::kFloat);
  auto* out = t.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    const double u = 1.0 / (1.0 + std::exp(-stream.normal()));
    out[i] = static_cast<float>(shift * u / (1.0 + (shift - 1.0) * u));
  }
  return t;
}

}  // namespace

// L = text_weight * mean_tokens [-log p(token of a target's text)] + image_weight * mean |v(x_t, t, context) - (eps -
// x_0)|^2 The context is all that the example has before. A share `prompt_dropout` of the examples is trained on its
// last picture alone, without any context, which guidance needs.
void train_joint(const recipe::Recipe& recipe, monitor::Monitor& monitor) {
  const std::filesystem::path source = recipe.policy.model;
  const SftConfig& sft = recipe.sft;
  const auto seed = static_cast<uint64_t>(recipe.run.seed);
  const bool resumes = std::filesystem::exists(source / "ema.safetensors");
  const std::unique_ptr<policy::Bagel> model =
      resumes ? policy::Bagel::load(recipe.policy, seed) : policy::Bagel::create(source, seed);
  NamedTensors trained;
  for (const NamedTensor& parameter : model->parameters()) {
    bool frozen = false;
    for (const std::string& pattern : recipe.policy.freeze) frozen = frozen || matches_pattern(parameter.name, pattern);
    parameter.tensor.requires_grad_(!frozen);
    if (!frozen) trained.push_back(parameter);
  }
  optim::AdamW optimizer(recipe.optim, trained);
  optim::GradClip clip(recipe.optim);
  optim::Ema ema(recipe.optim.ema, trained);
  monitor.note("encoding the example pool");
  const ShapesExamples examples(recipe.data.prompts, sft, seed);
  const std::vector<Encoded> pool = encode_pool(*model, examples, sft.num_examples);
  const policy::LatentGrid grid = model->grid_for(recipe.rollout.image_size);

  const int64_t copies = sft.timesteps_per_image;
  for (int64_t step = 0; step < recipe.run.num_steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    monitor.phase("update");
    RandomStream stream({.seed = seed, .step = static_cast<uint64_t>(step), .purpose = Purpose::sft_timestep});
    policy::TrainBatch batch;
    batch.prefixes.push_back({});  // the empty context
    std::vector<at::Tensor> clean, noise;
    std::vector<int64_t> target_rows, targets;
    int64_t text_row = 0;
    auto add_noisy = [&](policy::TrainSequence& sequence, const at::Tensor& latent) {
      const at::Tensor latents = latent.unsqueeze(0).expand({copies, -1, -1});  // [S, L, C]
      const at::Tensor n = tensor::normal(
          latents.sizes(),
          {.seed = seed, .step = static_cast<uint64_t>(step), .sample = clean.size(), .purpose = Purpose::sft_noise});
      const at::Tensor t = draw_times(copies, recipe.rollout.timestep_shift, stream);
      sequence.blocks.push_back(policy::noisy_image_block(flow::noisy_latents(latents, n, t), t, grid));
      clean.push_back(latents);
      noise.push_back(n);
    };
    for (const int64_t index : batch_indices(step, sft.batch_size, sft.num_examples, seed + 1)) {
      const Encoded& example = pool[index];
      policy::TrainSequence sequence;
      if (stream.chance(sft.prompt_dropout)) {  // its last picture, without any context
        if (example.turns.back().latents.defined()) add_noisy(sequence, example.turns.back().latents);
        if (!sequence.blocks.empty()) batch.sequences.push_back(std::move(sequence));
        continue;
      }
      sequence.prefix = static_cast<int64_t>(batch.prefixes.size());
      batch.prefixes.push_back(example.prefix);
      for (const Turn& turn : example.turns) {
        if (turn.latents.defined()) {
          if (turn.trained) add_noisy(sequence, turn.latents);
          sequence.blocks.insert(sequence.blocks.end(), turn.context.begin(), turn.context.end());
          continue;
        }
        for (size_t k = 0; k + 1 < turn.ids.size(); ++k) {
          target_rows.push_back(text_row + static_cast<int64_t>(k));
          targets.push_back(turn.ids[k + 1]);
        }
        text_row += static_cast<int64_t>(turn.ids.size());
        sequence.blocks.push_back(policy::text_block(turn.ids));
      }
      batch.sequences.push_back(std::move(sequence));
    }
    const policy::TrainOutput out = model->forward_train(batch);
    const at::Tensor hidden = out.text_hidden.index_select(0, at::tensor(target_rows, at::kLong));
    const at::Tensor cross_entropy =
        -kernels::gather_log_prob(model->logits(hidden), at::tensor(targets, at::kLong), 1.0).log_probs.mean();
    const at::Tensor matching =
        clean.empty() ? at::zeros({}) : flow::matching_loss(out.velocity, at::cat(clean, 0), at::cat(noise, 0)).mean();
    (sft.text_weight * cross_entropy + sft.image_weight * matching).backward();
    const optim::GradNorm norm = clip.check(trained);
    if (!norm.skip) optimizer.step(optim::lr_factor(recipe.optim, step, recipe.run.num_steps), norm.scale);
    optimizer.zero_grad();
    if (recipe.optim.ema.enabled) ema.update(optimizer.masters());
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    monitor.record({.step = step,
                    .values = {{"sft/cross_entropy", cross_entropy.item<double>()},
                               {"sft/velocity_mse", matching.item<double>()},
                               {"optim/grad_norm", norm.norm},
                               {"throughput/images_per_s", static_cast<double>(sft.batch_size) / seconds}}});
  }
  std::optional<optim::EmaScope> averaged;
  if (recipe.optim.ema.enabled) averaged.emplace(ema, trained);
  checkpoint::export_model(source, sft.output, model->merged(), {.dtype = at::kBFloat16});
}

}  // namespace unigrpo::train
