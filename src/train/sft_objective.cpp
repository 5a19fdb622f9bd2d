#include "train/sft_objective.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>

#include "base/error.h"
#include "base/rng.h"
#include "base/text.h"
#include "checkpoint/export_model.h"
#include "flow/matching_loss.h"
#include "io/model_folder.h"
#include "kernels/gather_log_prob.h"
#include "policy/bagel/bagel.h"
#include "policy/load.h"
#include "tensor/rng.h"
#include "train/build.h"
#include "train/sft_examples.h"
#include "train/step_hook.h"

namespace unigrpo::train {
namespace {

constexpr uint64_t kMaxCachedBytes = uint64_t{2} << 30;  // of encoded examples

uint64_t bytes_of(const std::vector<policy::Block>& blocks) {
  uint64_t bytes = 0;
  for (const policy::Block& block : blocks) {
    if (const auto* text = std::get_if<policy::TextBlock>(&block)) bytes += text->ids.size() * sizeof(int64_t);
    if (const auto* clean = std::get_if<policy::LatentBlock>(&block)) bytes += clean->latents.nbytes();
    if (const auto* vision = std::get_if<policy::VisionBlock>(&block)) bytes += vision->pixels.nbytes();
  }
  return bytes;
}

/// A part of an example as the model reads it.
struct Turn {
  std::vector<int64_t> ids = {};  // text: a block, bos ids eos
  at::Tensor latents = {};        // image: [L, C]
  policy::LatentGrid grid = {};
  bool trained = true;
  std::vector<policy::Block> context = {};  // image: what later turns see of it; empty at the end
};

struct Encoded {
  std::vector<policy::Block> prefix;
  std::vector<Turn> turns;

  uint64_t num_bytes() const {
    uint64_t bytes = bytes_of(prefix);
    for (const Turn& turn : turns) {
      bytes += turn.ids.size() * sizeof(int64_t) + bytes_of(turn.context);
      if (turn.latents.defined()) bytes += turn.latents.nbytes();
    }
    return bytes;
  }
};

/// Each example on its own, so that its bits do not depend on what else a step has. One that only reads images needs no
/// latents.
Encoded encode(policy::UnifiedPolicy& policy, const std::string& system_prompt, const SftExample& example) {
  std::vector<Image> images = example.images;
  for (const SftTurn& turn : example.target) {
    if (turn.image) images.push_back(*turn.image);
  }
  auto blocks = images.empty() ? std::vector<std::vector<policy::Block>>{} : policy.read_images(images, example.draws);
  Encoded encoded;
  if (!system_prompt.empty()) encoded.prefix.push_back(policy::TextBlock{policy::block_ids(policy, system_prompt)});
  std::optional<policy::LatentGrid> trained_grid;
  size_t next = 0;
  for (; next < example.images.size(); ++next) {
    encoded.prefix.insert(encoded.prefix.end(), blocks[next].begin(), blocks[next].end());
  }
  encoded.prefix.push_back(policy::TextBlock{policy::block_ids(policy, example.prompt)});
  for (const SftTurn& turn : example.target) {
    if (!turn.image) {
      encoded.turns.push_back({.ids = policy::block_ids(policy, turn.text)});
      continue;
    }
    const auto& clean = std::get<policy::LatentBlock>(blocks[next].front());
    if (turn.trained && trained_grid && *trained_grid != clean.grid) {
      throw BadInput("target of the prompt {}: its images have different sizes; all must have one",
                     in_quotes(example.prompt));
    }
    if (turn.trained) trained_grid = clean.grid;
    Turn drawn{.latents = clean.latents, .grid = clean.grid, .trained = turn.trained};
    if (&turn != &example.target.back()) drawn.context = std::move(blocks[next]);
    encoded.turns.push_back(std::move(drawn));
    ++next;
  }
  return encoded;
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

/// Noisy copies of one image.
struct Copies {
  at::Tensor clean, noise;  // [S, L, C]
  at::Tensor t;             // [S]
  policy::LatentGrid grid;
};

/// An example as one step trains on it.
struct Row {
  std::shared_ptr<const Encoded> example;
  bool without_context = false;     // its last image alone
  std::vector<Copies> images = {};  // of its trained images, in order

  int64_t num_tokens() const {
    int64_t tokens = 0;
    for (const Copies& copies : images) tokens += copies.t.size(0) * (copies.grid.num_tokens() + 2);
    if (without_context) return tokens;
    tokens += policy::num_tokens(example->prefix);
    for (const Turn& turn : example->turns) {
      tokens += static_cast<int64_t>(turn.ids.size()) + policy::num_tokens(turn.context);
    }
    return tokens;
  }

  /// The size of its images, which all have one; nothing where it draws none.
  std::optional<policy::LatentGrid> grid() const {
    return images.empty() ? std::nullopt : std::optional(images.front().grid);
  }
};

/// Rows of one forward: at most `budget` tokens, and noisy images of one size.
std::vector<std::span<const Row>> micro_batches(const std::vector<Row>& rows, int64_t budget) {
  std::vector<std::span<const Row>> batches;
  int64_t tokens = 0;
  size_t first = 0;
  std::optional<policy::LatentGrid> grid;
  for (size_t i = 0; i < rows.size(); ++i) {
    const auto own = rows[i].grid();
    if (i > first && (tokens + rows[i].num_tokens() > budget || (own && grid && *own != *grid))) {
      batches.push_back(std::span(rows).subspan(first, i - first));
      first = i;
      tokens = 0;
      grid.reset();
    }
    tokens += rows[i].num_tokens();
    if (own) grid = own;
  }
  if (first < rows.size()) batches.push_back(std::span(rows).subspan(first));
  return batches;
}

/// One forward's input and targets.
struct Packed {
  policy::TrainBatch batch;
  std::vector<int64_t> target_rows, targets;  // of hidden states, and the tokens that come next
  std::vector<at::Tensor> clean, noise;
};

Packed pack(std::span<const Row> rows) {
  Packed packed;
  packed.batch.prefixes.push_back({});  // the empty context
  int64_t text_row = 0;
  for (const Row& row : rows) {
    policy::TrainSequence sequence;
    auto next = row.images.begin();
    const auto add_noisy = [&] {
      packed.clean.push_back(next->clean);
      packed.noise.push_back(next->noise);
      const at::Tensor latents = flow::noisy_latents(next->clean, next->noise, next->t);
      sequence.blocks.push_back(policy::NoisyBlock{latents, next->t, next->grid});
      ++next;
    };
    if (row.without_context) {
      add_noisy();
      packed.batch.sequences.push_back(std::move(sequence));
      continue;
    }
    sequence.prefix = static_cast<int64_t>(packed.batch.prefixes.size());
    packed.batch.prefixes.push_back(row.example->prefix);
    for (const Turn& turn : row.example->turns) {
      if (turn.latents.defined()) {
        if (turn.trained) add_noisy();
        sequence.blocks.insert(sequence.blocks.end(), turn.context.begin(), turn.context.end());
        continue;
      }
      for (size_t k = 0; k + 1 < turn.ids.size(); ++k) {
        packed.target_rows.push_back(text_row + static_cast<int64_t>(k));
        packed.targets.push_back(turn.ids[k + 1]);
      }
      text_row += static_cast<int64_t>(turn.ids.size());
      sequence.blocks.push_back(policy::TextBlock{turn.ids});
    }
    packed.batch.sequences.push_back(std::move(sequence));
  }
  return packed;
}

/// The model to train: a folder's own weights, or fresh ones where a BAGEL folder has none yet.
std::unique_ptr<policy::UnifiedPolicy> open_policy(const policy::PolicyConfig& config, const Runtime& runtime) {
  const policy::Family& family = policy::family_of(config.model);
  if (family.weights_file == nullptr || io::find_weights(config.model, family.weights_file)) {
    return policy::load(config, runtime);
  }
  policy::require_family(config.model, "bagel");
  if (config.train == policy::TrainMode::lora) {
    throw BadInput("{}: no weights; policy.train = \"lora\" needs a model to adapt", config.model);
  }
  auto model = policy::Bagel::create(config.model, runtime.seed);
  for (const NamedTensor& parameter : model->parameters()) {
    const bool frozen = std::ranges::any_of(
        config.freeze, [&](const std::string& pattern) { return matches_pattern(parameter.name, pattern); });
    parameter.tensor.requires_grad_(!frozen);
  }
  return model;
}

class SftObjective : public Objective {
 public:
  SftObjective(const recipe::Recipe& recipe, const Runtime& runtime)
      : recipe_(recipe),
        sft_(recipe.sft),
        runtime_(runtime),
        examples_(open_examples(recipe, runtime.seed)),
        policy_(open_policy(recipe.policy, runtime)),
        generation_(read_generation_config(recipe.policy.model)) {
    if (!recipe.rollout.system_prompt.empty()) generation_.system_prompt = recipe.rollout.system_prompt;
    const at::NoGradGuard no_grad;
    encoded_batch(0);  // rows that the model cannot read are told before anything is made
  }

  NamedTensors parameters() const override { return trained_parameters(*policy_); }
  policy::UnifiedPolicy* policy() override { return policy_.get(); }
  const GenerationConfig& generation() const override { return generation_; }

  bool sample(Step& step, const RunContext& run) override {
    run.monitor.phase("data");
    const at::NoGradGuard no_grad;
    rows_.clear();
    RandomStream stream(
        {.seed = runtime_.seed, .step = static_cast<uint64_t>(step.index), .purpose = Purpose::sft_timestep});
    uint64_t num_images = 0;
    const auto add_copies = [&](Row& row, const Turn& turn) {
      const at::Tensor clean = turn.latents.unsqueeze(0).expand({sft_.timesteps_per_image, -1, -1});  // [S, L, C]
      const at::Tensor noise = tensor::normal(clean.sizes(), {.seed = runtime_.seed,
                                                              .step = static_cast<uint64_t>(step.index),
                                                              .sample = num_images++,
                                                              .purpose = Purpose::sft_noise});
      const at::Tensor t = draw_times(sft_.timesteps_per_image, recipe_.rollout.timestep_shift, stream);
      row.images.push_back({.clean = clean, .noise = noise, .t = t, .grid = turn.grid});
    };
    for (auto& example : encoded_batch(step.index)) {
      Row row{.example = std::move(example)};
      row.without_context = stream.chance(sft_.prompt_dropout);
      if (row.without_context) {
        if (!row.example->turns.back().latents.defined()) continue;
        add_copies(row, row.example->turns.back());
      } else {
        for (const Turn& turn : row.example->turns) {
          if (turn.latents.defined() && turn.trained) add_copies(row, turn);
        }
      }
      rows_.push_back(std::move(row));
    }
    return !runtime_.stop.requested();
  }

  // L = text_weight * mean over tokens of -log p(token of a target's text)
  //   + image_weight * mean over noisy images of |v(x_t, t, context) - (eps - x_0)|^2
  //
  // The context is all that the example has before. A share `prompt_dropout` of the examples is trained on its last
  // image alone, without any context, which guidance needs. Means are over the whole batch, so that micro-batches do
  // not change it.
  void update(Step& step, const Optimization& optimization, const RunContext& /*run*/) override {
    double num_targets = 0, num_copies = 0, num_images = 0;
    for (const Row& row : rows_) {
      num_images += static_cast<double>(row.images.size());
      for (const Copies& copies : row.images) num_copies += static_cast<double>(copies.t.size(0));
      if (row.without_context) continue;
      for (const Turn& turn : row.example->turns) {
        if (!turn.ids.empty()) num_targets += static_cast<double>(turn.ids.size() - 1);
      }
    }
    double cross_entropy = 0, matching = 0;
    optimization.optimizer.zero_grad();
    for (const std::span<const Row> rows : micro_batches(rows_, recipe_.grpo.micro_batch_tokens)) {
      const Packed packed = pack(rows);
      const policy::TrainOutput out = policy_->forward_train(packed.batch);
      std::vector<at::Tensor> terms;
      if (!packed.targets.empty()) {
        const at::Tensor hidden = out.text_hidden.index_select(0, at::tensor(packed.target_rows, at::kLong));
        const at::Tensor log_probs =
            kernels::gather_log_prob(policy_->logits(hidden), at::tensor(packed.targets, at::kLong), 1.0).log_probs;
        const at::Tensor loss = -log_probs.sum() / num_targets;
        cross_entropy += loss.item<double>();
        terms.push_back(sft_.text_weight * loss);
      }
      if (!packed.clean.empty()) {
        const at::Tensor per_image =
            flow::matching_loss(out.velocity, at::cat(packed.clean, 0), at::cat(packed.noise, 0));
        const at::Tensor loss = per_image.sum() / num_copies;
        matching += loss.item<double>();
        terms.push_back(sft_.image_weight * loss);
      }
      if (!terms.empty()) at::stack(terms).sum().backward();
    }
    const optim::GradNorm norm = optimization.clip.check(optimization.optimizer.parameters());
    if (!norm.skip) optimization.optimizer.step(optimization.lr_factor, norm.scale);
    optimization.optimizer.zero_grad();
    if (num_targets > 0) step.metrics["sft/cross_entropy"] = cross_entropy;
    if (num_copies > 0) step.metrics["sft/velocity_mse"] = matching;
    step.metrics["optim/grad_norm"] = norm.norm;
    step.metrics["optim/skipped"] = static_cast<double>(optimization.clip.skipped());
    step.metrics["throughput/tokens_per_s"] = num_targets / step.watch.seconds();
    if (num_images > 0) step.metrics["throughput/images_per_s"] = num_images / step.watch.seconds();
  }

  std::filesystem::path output(const std::filesystem::path& /*run_dir*/) const override { return sft_.output; }

  void write_model(const std::filesystem::path& destination, int64_t /*step*/) override {
    checkpoint::ExportOptions options{.dtype = at::kBFloat16};
    if (!recipe_.rollout.system_prompt.empty()) {
      options.generation_config = to_json(generation_, recipe_.policy.model);  // it is sampled as it was trained
    }
    checkpoint::export_model(recipe_.policy.model, destination, policy_->merged(), options);
  }

 private:
  /// The step's examples, in order; the cache holds what was encoded before, as far as it goes.
  std::vector<std::shared_ptr<const Encoded>> encoded_batch(int64_t step) {
    std::vector<std::shared_ptr<const Encoded>> batch;
    for (const int64_t key : examples_->batch(step)) {
      if (const auto found = cache_.find(key); found != cache_.end()) {
        batch.push_back(found->second);
        continue;
      }
      batch.push_back(
          std::make_shared<const Encoded>(encode(*policy_, generation_.system_prompt, examples_->example(key))));
      if (cached_bytes_ > kMaxCachedBytes) continue;
      cached_bytes_ += batch.back()->num_bytes();
      cache_[key] = batch.back();
    }
    return batch;
  }

  const recipe::Recipe& recipe_;
  const recipe::SftConfig& sft_;
  const Runtime& runtime_;
  std::unique_ptr<Examples> examples_;
  std::unique_ptr<policy::UnifiedPolicy> policy_;
  GenerationConfig generation_;
  std::map<int64_t, std::shared_ptr<const Encoded>> cache_;
  uint64_t cached_bytes_ = 0;
  std::vector<Row> rows_;  // of the step under way
};

}  // namespace

std::unique_ptr<Objective> make_sft_objective(const recipe::Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<SftObjective>(recipe, runtime);
}

}  // namespace unigrpo::train
