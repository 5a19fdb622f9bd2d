#include <chrono>
#include <cmath>
#include <filesystem>
#include <optional>

#include <ATen/ATen.h>

#include "base/rng.h"
#include "base/text.h"
#include "checkpoint/export_bagel.h"
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

/// The examples of a run, read and encoded once: token ids and clean latents.
struct EncodedPool {
  std::vector<std::vector<int64_t>> prompts, plans;  // as text blocks: bos ids eos
  at::Tensor latents;                                // [pool, L, C]
  policy::LatentGrid grid;
};

EncodedPool encode_pool(const policy::Bagel& model, const ShapesExamples& examples, int64_t size, int64_t image_size) {
  constexpr int64_t kEncodeBatch = 64;
  EncodedPool pool;
  pool.grid = model.grid_for(image_size);
  std::vector<at::Tensor> latents;
  for (int64_t first = 0; first < size; first += kEncodeBatch) {
    std::vector<Image> images;
    for (int64_t i = first; i < std::min(size, first + kEncodeBatch); ++i) {
      const data::shapes::Example example = examples.draw(i);
      pool.prompts.push_back(policy::block_ids(model, example.prompt));
      pool.plans.push_back(policy::block_ids(model, example.plan));
      images.push_back(data::shapes::render(example.scene));
    }
    latents.push_back(model.encode_images(policy::to_pixels(images)));
  }
  pool.latents = at::cat(latents, 0);
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

// L = text_weight * mean_tokens [-log p(plan token)] + image_weight * mean |v(x_t, t, prompt, plan) - (eps - x_0)|^2
// A share `prompt_dropout` of the images is trained without any context, which guidance needs.
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
  const ShapesExamples examples(recipe.data.prompts, {.wrong_plan = sft.wrong_plan, .wrong_scene = sft.wrong_scene},
                                seed);
  const EncodedPool pool = encode_pool(*model, examples, sft.num_examples, recipe.rollout.image_size);

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
    for (const int64_t index : batch_indices(step, sft.batch_size, sft.num_examples, seed + 1)) {
      const bool dropped = stream.chance(sft.prompt_dropout);
      policy::TrainSequence sequence;
      if (!dropped) {
        sequence.prefix = static_cast<int64_t>(batch.prefixes.size());
        batch.prefixes.push_back({policy::text_block(pool.prompts[index])});
        const auto& plan = pool.plans[index];
        for (size_t k = 0; k + 1 < plan.size(); ++k) {
          target_rows.push_back(text_row + static_cast<int64_t>(k));
          targets.push_back(plan[k + 1]);
        }
        text_row += static_cast<int64_t>(plan.size());
        sequence.blocks.push_back(policy::text_block(plan));
      }
      const at::Tensor latents = pool.latents[index].unsqueeze(0).expand({copies, -1, -1});  // [S, L, C]
      const at::Tensor n = tensor::normal(latents.sizes(), {.seed = seed,
                                                            .step = static_cast<uint64_t>(step),
                                                            .sample = clean.size(),
                                                            .purpose = Purpose::sft_noise});
      const at::Tensor t = draw_times(copies, recipe.rollout.timestep_shift, stream);
      sequence.blocks.push_back(policy::noisy_image_block(flow::noisy_latents(latents, n, t), t, pool.grid));
      clean.push_back(latents);
      noise.push_back(n);
      batch.sequences.push_back(std::move(sequence));
    }
    const policy::TrainOutput out = model->forward_train(batch);
    const at::Tensor hidden = out.text_hidden.index_select(0, at::tensor(target_rows, at::kLong));
    const at::Tensor cross_entropy =
        -kernels::gather_log_prob(model->logits(hidden), at::tensor(targets, at::kLong), 1.0).log_probs.mean();
    const at::Tensor matching = flow::matching_loss(out.velocity, at::cat(clean, 0), at::cat(noise, 0)).mean();
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
  checkpoint::export_bagel(source, sft.output, model->merged(), {.dtype = at::kBFloat16});
}

}  // namespace unigrpo::train
