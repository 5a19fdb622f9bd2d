#include "train/sft_objective.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/rng.h"
#include "base/signals.h"
#include "checkpoint/export_model.h"
#include "flow/matching_loss.h"
#include "io/image_codec.h"
#include "io/model_folder.h"
#include "optim/clipped_step.h"
#include "policy/bagel/bagel.h"
#include "policy/load.h"
#include "policy/sharded.h"
#include "runtime/ranks.h"
#include "tensor/convert.h"
#include "tensor/device.h"
#include "tensor/rng.h"
#include "train/build.h"
#include "train/sft_examples.h"
#include "train/sft_pack.h"
#include "train/step_hook.h"
#include "train/step_metrics.h"

namespace unigrpo::train {
namespace {

constexpr uint64_t kMaxCachedBytes = uint64_t{2} << 30;  // of encoded examples

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
  auto model = policy::Bagel::create(config.model, runtime);
  for (const NamedTensor& parameter : model->parameters()) {
    parameter.tensor.requires_grad_(!policy::matches_any(config.freeze, parameter.name));
  }
  policy::check_freeze(config, model->parameters());
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
        generation_(sft_generation_of(recipe)) {
    check_rows();
    policy::shard(*policy_, recipe.parallel, runtime);
  }

  NamedTensors parameters() const override { return policy::trained_parameters(*policy_); }
  policy::UnifiedPolicy* policy() override { return policy_.get(); }
  const GenerationConfig& generation() const override { return generation_; }

  bool sample(Step& step, const RunContext& run) override {
    run.enter(step.number(), "data");
    const at::NoGradGuard no_grad;
    rows_.clear();
    step_ = static_cast<uint64_t>(step.index);
    RandomStream stream(
        {.seed = runtime_.seed, .step = static_cast<uint64_t>(step.index), .purpose = Purpose::sft_timestep});
    uint64_t num_images = 0;
    const auto times = [&] { return draw_times(sft_.timesteps_per_image, recipe_.rollout.timestep_shift, stream); };
    const auto add_copies = [&](SftRow& row, const EncodedTurn& turn) {
      const at::Tensor clean = turn.latents.unsqueeze(0).expand({sft_.timesteps_per_image, -1, -1});  // [S, L, C]
      const at::Tensor noise = tensor::normal(clean.sizes(), {.seed = runtime_.seed,
                                                              .step = static_cast<uint64_t>(step.index),
                                                              .sample = num_images++,
                                                              .purpose = Purpose::sft_noise});
      row.images.push_back({.clean = clean, .noise = noise, .t = times(), .grid = turn.grid});
    };
    // Another rank's row: its share of the random numbers alone.
    const auto pass_over = [&](int64_t key) {
      const std::vector<bool> trained = examples_->trained_images(key);
      const bool without_prompt = stream.chance(sft_.prompt_dropout);
      for (size_t turn = without_prompt ? trained.size() - 1 : 0; turn < trained.size(); ++turn) {
        if (!trained[turn]) continue;
        times();
        ++num_images;
      }
    };
    int64_t place = 0;  // in the batch
    const auto take = [&](int64_t key) {
      if (place++ % num_shares(runtime_) != own_share(runtime_)) {
        pass_over(key);
        return;
      }
      SftRow row{.example = encoded(key)};
      row.without_prompt = stream.chance(sft_.prompt_dropout);
      if (row.without_prompt) {
        if (!row.example->turns.back().latents.defined()) return;
        add_copies(row, row.example->turns.back());
      } else {
        for (const EncodedTurn& turn : row.example->turns) {
          if (turn.latents.defined() && turn.trained) add_copies(row, turn);
        }
      }
      rows_.push_back(std::move(row));
    };
    return uninterrupted(runtime_, [&] {
      for (const int64_t key : examples_->batch(step.index)) {
        runtime_.stop.throw_if_requested();
        take(key);
      }
      return !runtime_.stop.requested();
    });
  }

  // L = text_weight * mean over tokens of -log p(token of a target's text)
  //   + image_weight * mean over noisy images of |v(x_t, t, context) - (eps - x_0)|^2
  //
  // The context is all that the example has before. A share `prompt_dropout` of the examples is trained on its last
  // image alone, after no more than the system prompt, which guidance needs. Means are over the whole batch, so that
  // micro-batches do not change it.
  bool update(Step& step, const Optimization& optimization, const RunContext& /*run*/) override {
    const Counts counts = count();
    tensor::Readings losses;
    parallel::ShardedModel* sharded = policy_->sharded();
    const bool together = sharded && sharded->passes_together();
    optim::drop_gradients(optimization.optimizer, sharded);
    std::optional<policy::Gathered> whole;  // as all ranks' pieces are now
    if (!together) whole.emplace(*policy_, policy::Gathered::Form::slices);
    const bool complete =
        uninterrupted(runtime_, [&] { return together ? add_all_together(counts, losses) : add_all(counts, losses); });
    if (!complete) {
      optim::drop_gradients(optimization.optimizer, sharded);
      return false;
    }
    optim::clipped_step(optimization.optimizer, optimization.clip, runtime_, optimization.lr_factor, step.metrics,
                        sharded);
    Values own = {{"text", 0.0}, {"image", 0.0}};
    for (const auto& [name, value] : losses.read()) own[name] += value;
    const Values sums = summed(runtime_, own, "losses");
    const double cross_entropy = sums.at("text"), matching = sums.at("image");
    step.metrics["sft/loss"] = sft_.text_weight * cross_entropy + sft_.image_weight * matching;
    if (counts.targets > 0) step.metrics["sft/cross_entropy"] = cross_entropy;
    if (counts.copies > 0) step.metrics["sft/velocity_mse"] = matching;
    step.metrics["optim/skipped"] = static_cast<double>(optimization.clip.skipped());
    Drawn{.tokens = counts.targets, .images = counts.images}.rates("throughput/", step.watch.seconds(), step.metrics);
    return true;
  }

  std::filesystem::path output(const std::filesystem::path& /*run_dir*/) const override { return sft_.output; }

  void write_model(const std::filesystem::path& destination, int64_t /*step*/) override {
    checkpoint::ExportOptions options{.dtype = at::kBFloat16, .generation_config = sft_written_generation(recipe_)};
    checkpoint::export_model(recipe_.policy.model, destination, policy_->merged(), options);
  }

 private:
  /// What the step trains on, on all ranks.
  struct Counts {
    double targets = 0, copies = 0, images = 0;
  };
  Counts count() const {
    Counts own;
    for (const SftRow& row : rows_) {
      own.images += static_cast<double>(row.images.size());
      for (const Copies& copies : row.images) own.copies += static_cast<double>(copies.t.size(0));
      if (row.without_prompt) continue;
      for (const EncodedTurn& turn : row.example->turns) {
        if (!turn.ids.empty()) own.targets += static_cast<double>(turn.ids.size() - 1);
      }
    }
    Values all = summed(runtime_, {{"targets", own.targets}, {"copies", own.copies}, {"images", own.images}}, "counts");
    return {.targets = all["targets"], .copies = all["copies"], .images = all["images"]};
  }

  bool add_all(const Counts& counts, tensor::Readings& losses) {
    for (const std::span<const SftRow> rows : micro_batches(rows_, recipe_.grpo.micro_batch_tokens)) {
      if (stop_before_pass(runtime_)) return false;
      fault::point("sft.micro_batch");
      add_gradients(rows, counts, losses);
    }
    return true;
  }

  /// The same where ranks meet within passes: each makes as many as any.
  bool add_all_together(const Counts& counts, tensor::Readings& losses) {
    const auto batches = micro_batches(rows_, recipe_.grpo.micro_batch_tokens);
    size_t turns = 0;
    for (const uint64_t count : gather(runtime_, static_cast<uint64_t>(batches.size()), "micro-batches")) {
      turns = std::max<size_t>(turns, count);
    }
    for (size_t turn = 0; turn < turns; ++turn) {
      if (stop_asked(runtime_)) return false;
      const auto pass = [&] {
        policy::in_pass(*policy_, /*with_backward=*/true, [&] {
          if (turn >= batches.size()) return;
          fault::point("sft.micro_batch");
          add_gradients(batches[turn], counts, losses);
        });
        return true;
      };
      completed(pass);  // or a stop is asked for, which all see before the next turn
    }
    return !stop_asked(runtime_);
  }

  /// Forward and backward of some rows; adds their share of both parts of the loss.
  void add_gradients(std::span<const SftRow> rows, const Counts& counts, tensor::Readings& losses) {
    PackedRows packed = pack(rows);
    packed.batch.update = step_;
    const policy::TrainOutput out = policy_->forward_train(packed.batch);
    std::vector<at::Tensor> terms;
    if (!packed.targets.empty()) {
      at::Tensor target_rows = tensor::index_tensor(packed.target_rows), targets = tensor::index_tensor(packed.targets);
      tensor::send_together({&target_rows, &targets}, policy_->device());
      const at::Tensor log_probs = policy_->log_probs(out.text_hidden.index_select(0, target_rows), targets, 1.0);
      const at::Tensor loss = -log_probs.sum() / counts.targets;
      losses.add("text", loss);
      terms.push_back(sft_.text_weight * loss);
    }
    if (!packed.clean.empty()) {
      at::Tensor clean = at::cat(packed.clean, 0), noise = at::cat(packed.noise, 0);
      tensor::send_together({&clean, &noise}, policy_->device());
      const at::Tensor loss = flow::matching_loss(out.velocity, clean, noise).sum() / counts.copies;
      losses.add("image", loss);
      terms.push_back(sft_.image_weight * loss);
    }
    if (!terms.empty()) at::stack(terms).sum().backward();
  }

  /// What the model cannot read is told before anything is made: of every row its length and its images' headers, and
  /// whole one row of each form (with images to read, to draw) and those whose images may end at different sizes.
  void check_rows() {
    const at::NoGradGuard no_grad;
    const auto length = [&](const std::string& text) {
      return static_cast<int64_t>(policy::block_ids(*policy_, text).size());
    };
    const int64_t system = generation_.system_prompt.empty() ? 0 : length(generation_.system_prompt);
    std::set<std::pair<bool, bool>> forms;
    for (const data::Prompt& row : examples_->rows()) {
      if (runtime_.stop.requested()) return;
      std::set<std::pair<uint64_t, uint64_t>> sizes;
      // A token takes a position; an image two, one as VAE tokens and one as vision tokens.
      int64_t positions = system + length(row.text) + 2 * static_cast<int64_t>(row.images.size());
      try {
        for (const std::string& image : row.images) io::read_image_header(image);
        for (const data::TargetSegment& segment : row.target) {
          positions += segment.image.empty() ? length(segment.text) : 2;
          if (segment.image.empty()) continue;
          const io::ImageHeader header = io::read_image_header(segment.image);
          sizes.emplace(header.width, header.height);
        }
        if (positions > policy_->max_positions()) {
          throw BadInput("prompt and target take {} positions, the model has {}", positions, policy_->max_positions());
        }
      } catch (const BadInput& error) {
        throw BadInput("{}: {}", examples_->where(row.index), error.what());
      }
      if (forms.emplace(row.images.empty(), sizes.empty()).second || sizes.size() > 1) encoded(row.index);
    }
    for (const int64_t key : examples_->batch(0)) encoded(key);
    const auto ends_in_text = [](const data::Prompt& row) { return row.target.back().image.empty(); };
    if (sft_.prompt_dropout == 0 || examples_->rows().empty() ||
        !std::ranges::all_of(examples_->rows(), ends_in_text)) {
      return;
    }
    const std::string why = fmt::format(
        "sft.prompt_dropout = {}: a row without its prompt is trained on its last image, and no target in {} ends in "
        "one",
        sft_.prompt_dropout, recipe_.data.prompts);
    if (sft_.prompt_dropout == 1) throw BadInput("{}: nothing is trained; expected below 1", why);
    log::warn(why + ": that share of the rows is left out");
  }

  /// The cache holds what was encoded before, as far as it goes.
  std::shared_ptr<const EncodedExample> encoded(int64_t key) {
    if (const auto found = cache_.find(key); found != cache_.end()) return found->second;
    std::shared_ptr<const EncodedExample> example;
    try {
      example = std::make_shared<EncodedExample>(encode(*policy_, generation_.system_prompt, examples_->example(key)));
    } catch (const BadInput& error) {
      throw BadInput("{}: {}", examples_->where(key), error.what());
    }
    if (cached_bytes_ > kMaxCachedBytes) return example;
    cached_bytes_ += example->num_bytes();
    return cache_[key] = example;
  }

  const recipe::Recipe& recipe_;
  const recipe::SftConfig& sft_;
  const Runtime& runtime_;
  std::unique_ptr<Examples> examples_;
  std::unique_ptr<policy::UnifiedPolicy> policy_;
  GenerationConfig generation_;
  std::map<int64_t, std::shared_ptr<const EncodedExample>> cache_;
  uint64_t cached_bytes_ = 0;
  std::vector<SftRow> rows_;  // of the step under way
  uint64_t step_ = 0;         // its index
};

}  // namespace

std::unique_ptr<Objective> make_sft_objective(const recipe::Recipe& recipe, const Runtime& runtime) {
  return std::make_unique<SftObjective>(recipe, runtime);
}

}  // namespace unigrpo::train
