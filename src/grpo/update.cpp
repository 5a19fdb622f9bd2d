#include "grpo/update.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>

#include "flow/guidance.h"
#include "flow/sde_step.h"
#include "flow/velocity_penalty.h"
#include "grpo/image_loss.h"
#include "grpo/pack.h"
#include "grpo/text_loss.h"
#include "kernels/gather_log_prob.h"

namespace unigrpo::grpo {
namespace {

using rollout::Trajectory;

/// What a forward says about the actions of a packed batch.
struct Recomputed {
  at::Tensor text_log_probs;   // [sum K]
  at::Tensor velocity;         // [R, L, C]
  at::Tensor image_log_probs;  // [R]
};

bool trains_text(const GrpoConfig& config) { return config.text.weight > 0; }
bool trains_images(const GrpoConfig& config) { return config.image.weight > 0; }

flow::TimeSpans spans_of(const PackedBatch& packed) {
  return {.t = packed.t, .t_next = packed.t_next, .t_max = packed.t_max};
}

Recomputed recompute(const UpdateSetup& setup, policy::UnifiedPolicy& policy, const PackedBatch& packed) {
  const policy::TrainOutput out = policy.forward_train(packed.batch);
  Recomputed result;
  if (packed.text_ids.defined()) {
    const at::Tensor logits = policy.logits(out.text_hidden.index_select(0, packed.text_rows));
    result.text_log_probs =
        kernels::gather_log_prob(logits, packed.text_ids, setup.rollout.temperature).log_probs;
  }
  if (packed.x.defined()) {
    const int64_t steps = packed.x.size(0);
    result.velocity = out.velocity.narrow(0, 0, steps);
    if (setup.rollout.train_guidance != 1.0) {
      const flow::GuidanceConfig guide{.text_scale = setup.rollout.train_guidance};
      const at::Tensor guided = flow::guide(guide, {.conditional = result.velocity,
                                                    .without_text = out.velocity.narrow(0, steps, steps),
                                                    .without_image = {}});
      const at::Tensor acts = (packed.t.gt(guide.interval_low).logical_and(packed.t.le(guide.interval_high)))
                                  .view({-1, 1, 1});
      result.velocity = at::where(acts, guided, result.velocity);
    }
    result.image_log_probs =
        flow::sde_log_prob(setup.rollout.sde, packed.x, result.velocity, packed.x_next, spans_of(packed));
  }
  return result;
}

PackedBatch pack_for(const UpdateSetup& setup, std::span<const Trajectory> trajectories,
                     std::span<const int64_t> rows) {
  return pack(setup.policy, trajectories, rows,
              setup.config.image.context_gradient == ContextGradient::detached, setup.rollout.train_guidance != 1.0);
}

/// Splits a flat [sum lengths] tensor into rows padded with zeros: [B, max length].
at::Tensor padded(const at::Tensor& flat, const std::vector<int64_t>& lengths) {
  return at::pad_sequence(flat.split_with_sizes(lengths), /*batch_first=*/true);
}

at::Tensor length_mask(const std::vector<int64_t>& lengths) {
  const at::Tensor limit = at::tensor(lengths, at::kLong).unsqueeze(1);
  return at::arange(limit.max().item<int64_t>(), at::kLong).unsqueeze(0).lt(limit);
}

/// Which text tokens count, and with which advantage: the rule for texts that the length limit cut.
struct TextTargets {
  at::Tensor mask;        // [B, T] bool
  at::Tensor advantages;  // [B]
};

TextTargets text_targets(const GrpoConfig& config, const PackedBatch& packed, const Advantages& advantages) {
  TextTargets targets{.mask = length_mask(packed.text_lengths), .advantages = {}};
  std::vector<double> values;
  for (size_t i = 0; i < packed.text_lengths.size(); ++i) {
    double a = advantages.values[packed.rows[packed.text_segment_row[i]]];
    if (!packed.text_ended[i] && config.text.truncated == Truncated::mask) {
      targets.mask[static_cast<int64_t>(i)].fill_(false);
    }
    // Penalized: a cut text is never better than one standard deviation below its group.
    if (!packed.text_ended[i] && config.text.truncated == Truncated::penalize) a = std::min(a, -1.0);
    values.push_back(a);
  }
  targets.advantages = at::tensor(values).to(at::kFloat);
  return targets;
}

at::Tensor step_weights(const GrpoConfig& config, const PackedBatch& packed) {
  if (config.image.step_weight == StepWeight::uniform) return {};
  return padded((1.0 / (packed.t - packed.t_next)).to(at::kFloat), packed.image_widths);
}

void add_to(UpdateStats& stats, const std::string& name, double value) { stats[name] += value; }

}  // namespace

bool needs_reference(const GrpoConfig& config) {
  return (trains_images(config) && config.image.penalty != flow::Penalty::none) ||
         (trains_text(config) && config.text.kl_beta > 0);
}

std::vector<std::vector<std::vector<int64_t>>> plan_update(const GrpoConfig& config,
                                                           std::span<const Trajectory> trajectories,
                                                           const std::vector<bool>& keep) {
  int64_t num_prompts = 0;
  for (const Trajectory& trajectory : trajectories) num_prompts = std::max(num_prompts, trajectory.prompt_index + 1);
  const int64_t updates = std::min(config.num_updates, std::max<int64_t>(num_prompts, 1));
  std::vector<std::vector<std::vector<int64_t>>> plan;
  for (int64_t u = 0; u < updates; ++u) {
    const int64_t first = num_prompts * u / updates, last = num_prompts * (u + 1) / updates;
    std::vector<int64_t> rows;
    for (size_t i = 0; i < trajectories.size(); ++i) {
      const int64_t prompt = trajectories[i].prompt_index;
      if (keep[i] && prompt >= first && prompt < last) rows.push_back(static_cast<int64_t>(i));
    }
    if (!rows.empty()) plan.push_back(plan_micro_batches(trajectories, rows, config.micro_batch_tokens));
  }
  return plan;
}

LogProbNoise measure_log_prob_noise(const UpdateSetup& setup, std::span<const Trajectory> trajectories) {
  const at::NoGradGuard no_grad;
  std::vector<int64_t> all(trajectories.size());
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
  const auto batches = plan_micro_batches(trajectories, all, setup.config.micro_batch_tokens);
  LogProbNoise noise;
  if (batches.empty()) return noise;
  const PackedBatch packed = pack_for(setup, trajectories, batches.front());
  const Recomputed now = recompute(setup, setup.policy, packed);
  if (now.text_log_probs.defined()) {
    noise.text = (now.text_log_probs - packed.text_old_log_probs).abs().max().item<double>();
  }
  if (now.image_log_probs.defined()) {
    noise.image = (now.image_log_probs - packed.image_old_log_probs).abs().max().item<double>();
  }
  return noise;
}

UpdateStats update(const UpdateSetup& setup, std::span<const Trajectory> trajectories, const Advantages& advantages,
                   double lr_factor) {
  const GrpoConfig& config = setup.config;
  const bool with_reference = needs_reference(config);
  const auto plan = plan_update(config, trajectories, advantages.keep);
  UpdateStats stats;
  double text_noise = 0, image_noise = 0;
  double micro_batches = 0, optimizer_steps = 0;
  for (size_t u = 0; u < plan.size(); ++u) {
    // Global counts of this mini-batch, before any forward.
    TextNormalizer text_counts;
    ImageNormalizer image_counts;
    std::vector<PackedBatch> packs;
    for (const auto& rows : plan[u]) {
      PackedBatch packed = pack_for(setup, trajectories, rows);
      if (!packed.text_lengths.empty()) text_counts += count_text(text_targets(config, packed, advantages).mask);
      if (!packed.image_widths.empty()) {
        image_counts += count_image(length_mask(packed.image_widths), step_weights(config, packed));
      }
      packs.push_back(std::move(packed));
    }
    setup.optimizer.zero_grad();
    for (const PackedBatch& packed : packs) {
      ++micro_batches;
      Recomputed reference;
      if (with_reference) {
        const at::NoGradGuard no_grad;
        if (setup.reference) {
          reference = recompute(setup, *setup.reference, packed);
        } else {
          const policy::AdaptersOff off(setup.policy);
          reference = recompute(setup, setup.policy, packed);
        }
      }
      const Recomputed now = recompute(setup, setup.policy, packed);
      at::Tensor loss;
      auto add_loss = [&](const at::Tensor& term) { loss = loss.defined() ? loss + term : term; };
      if (now.text_log_probs.defined() && trains_text(config)) {
        const TextTargets targets = text_targets(config, packed, advantages);
        const auto& lengths = packed.text_lengths;
        const TextLoss text = text_loss(
            config.text,
            {.log_probs = padded(now.text_log_probs, lengths),
             .old_log_probs = padded(packed.text_old_log_probs, lengths),
             .ref_log_probs = config.text.kl_beta > 0 ? padded(reference.text_log_probs, lengths) : at::Tensor(),
             .mask = targets.mask,
             .advantages = targets.advantages},
            text_counts, setup.rollout.max_tokens);
        add_loss(config.text.weight * text.loss);
        add_to(stats, "text/loss", text.loss.item<double>());
        add_to(stats, "text/kl", text.kl.item<double>());
        add_to(stats, "text/approx_kl", text.approx_kl.item<double>());
        add_to(stats, "text/clip_fraction", text.clip_fraction.item<double>());
      }
      if (now.velocity.defined() && trains_images(config)) {
        const auto& widths = packed.image_widths;
        std::vector<double> values;
        for (const int64_t row : packed.image_segment_row) values.push_back(advantages.values[packed.rows[row]]);
        ImageBatch batch{.log_probs = padded(now.image_log_probs, widths),
                         .old_log_probs = padded(packed.image_old_log_probs, widths),
                         .mask = length_mask(widths),
                         .advantages = at::tensor(values).to(at::kFloat),
                         .log_ratios = {},
                         .step_weights = step_weights(config, packed),
                         .penalty = {}};
        if (config.image.ratio_norm) {
          batch.log_ratios = padded(flow::ratio_norm_log_ratio(setup.rollout.sde, packed.x, now.velocity,
                                                               packed.velocity_old, packed.x_next, spans_of(packed)),
                                    widths);
        }
        if (config.image.penalty == flow::Penalty::velocity_mse) {
          batch.penalty = padded(flow::velocity_mse(now.velocity, reference.velocity), widths);
        } else if (config.image.penalty == flow::Penalty::latent_kl) {
          batch.penalty = padded(
              flow::latent_kl(setup.rollout.sde, now.velocity, reference.velocity, spans_of(packed)), widths);
        }
        const ImageLoss image = image_loss(config.image, config.advantage.clip, batch, image_counts);
        add_loss(image.total);
        add_to(stats, "image/loss", image.loss.item<double>());
        add_to(stats, "image/approx_kl", image.approx_kl.item<double>());
        add_to(stats, "image/clip_fraction", image.clip_fraction.item<double>());
        add_to(stats, "image/ratio", image.ratio_mean.item<double>());
        if (config.image.ratio_norm) add_to(stats, "image/plain_ratio", image.plain_ratio_mean.item<double>());
        if (config.image.penalty == flow::Penalty::velocity_mse) {
          add_to(stats, "image/velocity_mse", image.penalty.item<double>());
        } else if (config.image.penalty == flow::Penalty::latent_kl) {
          add_to(stats, "image/latent_kl", image.penalty.item<double>());
          const at::Tensor drift = flow::velocity_mse(now.velocity.detach(), reference.velocity);
          add_to(stats, "image/velocity_mse", drift.sum().item<double>() / image_counts.num_steps);
        }
      }
      if (u == 0) {  // the weights are still the rollout's
        if (now.text_log_probs.defined()) {
          text_noise = std::max(
              text_noise, (now.text_log_probs - packed.text_old_log_probs).abs().max().item<double>());
        }
        if (now.image_log_probs.defined()) {
          image_noise = std::max(
              image_noise, (now.image_log_probs - packed.image_old_log_probs).abs().max().item<double>());
        }
      }
      if (loss.defined() && loss.requires_grad()) loss.backward();
    }
    const optim::GradNorm norm = setup.clip.check(setup.optimizer.parameters());
    if (!norm.skip) setup.optimizer.step(lr_factor, norm.scale);
    setup.optimizer.zero_grad();
    add_to(stats, "optim/grad_norm", norm.norm);
    ++optimizer_steps;
  }
  if (optimizer_steps > 0) {
    for (auto& [name, value] : stats) value /= optimizer_steps;
    stats["text/log_prob_diff"] = text_noise;
    stats["image/log_prob_diff"] = image_noise;
  }
  stats["optim/micro_batches"] = micro_batches;
  stats["optim/skipped"] = static_cast<double>(setup.clip.skipped());
  return stats;
}

}  // namespace unigrpo::grpo
