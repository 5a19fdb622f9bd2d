#include "grpo/update.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <optional>

#include "base/error.h"
#include "flow/guidance.h"
#include "flow/sde_step.h"
#include "flow/velocity_penalty.h"
#include "grpo/image_loss.h"
#include "grpo/pack.h"
#include "grpo/text_loss.h"
#include "kernels/gather_log_prob.h"
#include "rollout/conditions.h"

namespace unigrpo::grpo {
namespace {

using rollout::ImageSegment;
using rollout::TextSegment;
using rollout::Trajectory;

/// What a forward says about the actions of a packed batch.
struct Recomputed {
  at::Tensor text_log_probs;   // [sum K]
  at::Tensor velocity;         // [R, L, C]
  at::Tensor image_log_probs;  // [R]
  std::vector<std::vector<policy::ContextDigest>> digests;
};

bool trains_text(const GrpoConfig& config) { return config.text.weight > 0; }
bool trains_images(const GrpoConfig& config) { return config.image.weight > 0; }

flow::TimeSpans spans_of(const PackedBatch& packed) {
  return {.t = packed.t, .t_next = packed.t_next, .t_max = packed.t_max};
}

Recomputed recompute(const UpdateSetup& setup, policy::UnifiedPolicy& policy, const PackedBatch& packed) {
  policy::TrainOutput out = policy.forward_train(packed.batch);
  Recomputed result;
  result.digests = std::move(out.digests);
  if (packed.text_ids.defined()) {
    const at::Tensor logits = policy.logits(out.text_hidden.index_select(0, packed.text_rows));
    result.text_log_probs = kernels::gather_log_prob(logits, packed.text_ids, setup.rollout.temperature).log_probs;
  }
  if (packed.x.defined()) {
    const int64_t steps = packed.x.size(0);
    result.velocity = out.velocity.narrow(0, 0, steps);
    if (setup.rollout.train_guidance != 1.0) {
      const flow::GuidanceConfig guide{.text_scale = setup.rollout.train_guidance};
      const at::Tensor guided = flow::guide(
          guide,
          {.conditional = result.velocity, .without_text = out.velocity.narrow(0, steps, steps), .without_image = {}});
      const at::Tensor acts =
          (packed.t.gt(guide.interval_low).logical_and(packed.t.le(guide.interval_high))).view({-1, 1, 1});
      result.velocity = at::where(acts, guided, result.velocity);
    }
    result.image_log_probs =
        flow::sde_log_prob(setup.rollout.sde, packed.x, result.velocity, packed.x_next, spans_of(packed));
  }
  return result;
}

PackedBatch pack_for(const UpdateSetup& setup, std::span<const Trajectory> trajectories,
                     std::span<const int64_t> rows) {
  return pack(setup.policy, trajectories, rows, setup.config.image.context_gradient == ContextGradient::detached,
              setup.rollout.train_guidance != 1.0);
}

/// Stops where an action is about to be trained under other conditions than those it was sampled under.
/// `weights_version`: of the policy when the update began; later mini-batches of the same rollout are trained on newer
/// weights on purpose.
void require_same_conditions(const UpdateSetup& setup, std::span<const Trajectory> trajectories,
                             const PackedBatch& packed, const Recomputed& now, uint64_t weights_version) {
  for (const PackedBatch::Place& place : packed.places) {
    const Trajectory& trajectory = trajectories[packed.rows[place.row]];
    std::visit(
        [&](const auto& segment) {
          rollout::Conditions conditions = rollout::conditions_of(now.digests.at(place.sequence).at(place.block),
                                                                  segment, setup.rollout, setup.policy);
          conditions.weights_version = weights_version;
          const std::string field = rollout::first_difference(segment.conditions, conditions);
          if (field.empty()) return;
          throw RuntimeFailure("sample {}, segment {}: the update's {} is not the rollout's; nothing was trained on it",
                               trajectory.sample.id, place.segment, field);
        },
        trajectory.segments[place.segment]);
  }
}

/// The segments of one round: rows of PackedBatch's per-segment lists.
std::vector<size_t> of_round(const std::vector<int64_t>& rounds, int64_t round) {
  std::vector<size_t> members;
  for (size_t i = 0; i < rounds.size(); ++i) {
    if (rounds[i] == round) members.push_back(i);
  }
  return members;
}

/// Picks rows of a flat [sum lengths] tensor and pads them with zeros: [B, max length].
at::Tensor padded(const at::Tensor& flat, const std::vector<int64_t>& lengths, const std::vector<size_t>& members) {
  const auto rows = flat.split_with_sizes(lengths);
  std::vector<at::Tensor> picked;
  for (const size_t i : members) picked.push_back(rows[i]);
  return at::pad_sequence(picked, /*batch_first=*/true);
}

at::Tensor length_mask(const std::vector<int64_t>& lengths, const std::vector<size_t>& members) {
  std::vector<int64_t> picked;
  for (const size_t i : members) picked.push_back(lengths[i]);
  const at::Tensor limit = at::tensor(picked, at::kLong).unsqueeze(1);
  return at::arange(limit.max().item<int64_t>(), at::kLong).unsqueeze(0).lt(limit);
}

/// A text that the length limit cut is not trained on under this rule.
bool masked_out(const GrpoConfig& config, bool ended) { return !ended && config.text.truncated == Truncated::mask; }

/// Which text tokens count, and with which advantage: the rule for texts that the length limit cut.
struct TextTargets {
  at::Tensor mask;        // [B, T] bool
  at::Tensor advantages;  // [B]
};

TextTargets text_targets(const GrpoConfig& config, const PackedBatch& packed, const Advantages& advantages,
                         const std::vector<size_t>& members) {
  TextTargets targets{.mask = length_mask(packed.text_lengths, members), .advantages = {}};
  std::vector<double> values;
  for (size_t k = 0; k < members.size(); ++k) {
    const size_t i = members[k];
    double a = advantages.text[packed.rows[packed.text_segment_row[i]]];
    if (masked_out(config, packed.text_ended[i])) targets.mask[static_cast<int64_t>(k)].fill_(false);
    // Penalized: a cut text is never better than one standard deviation below its group.
    if (!packed.text_ended[i] && config.text.truncated == Truncated::penalize) a = std::min(a, -1.0);
    values.push_back(a);
  }
  targets.advantages = at::tensor(values).to(at::kFloat);
  return targets;
}

double step_weight(double t, double t_next) { return 1.0 / (t - t_next); }

at::Tensor step_weights(const GrpoConfig& config, const PackedBatch& packed, const std::vector<size_t>& members) {
  if (config.image.step_weight == StepWeight::uniform) return {};
  return padded((1.0 / (packed.t - packed.t_next)).to(at::kFloat), packed.image_widths, members);
}

/// Global counts of a mini-batch, round by round: an episode's n-th text, its n-th image.
struct Counts {
  std::vector<TextNormalizer> text;
  std::vector<ImageNormalizer> image;

  size_t num_rounds() const { return std::max(text.size(), image.size()); }
};

/// From the trajectories alone, so that one micro-batch at a time need be packed.
Counts count(const GrpoConfig& config, std::span<const Trajectory> trajectories,
             const std::vector<std::vector<int64_t>>& micro_batches) {
  Counts counts;
  auto round_of = [](auto& rounds, size_t round) -> auto& {
    if (rounds.size() <= round) rounds.resize(round + 1);
    return rounds[round];
  };
  for (const auto& rows : micro_batches) {
    for (const int64_t row : rows) {
      size_t texts = 0, images = 0;
      for (const auto& segment : trajectories[row].segments) {
        if (const auto* text = std::get_if<TextSegment>(&segment)) {
          const size_t round = texts++;
          if (text->forced) continue;
          const double tokens = masked_out(config, text->ended) ? 0 : static_cast<double>(text->ids.size());
          round_of(counts.text, round) +=
              {.num_tokens = tokens, .num_nonempty_rows = tokens > 0 ? 1.0 : 0.0, .num_rows = 1};
        } else {
          const auto& image = std::get<ImageSegment>(segment);
          const size_t round = images++;
          if (image.window.width() == 0) continue;
          ImageNormalizer steps{.num_steps = static_cast<double>(image.window.width()), .sum_of_weights = 0};
          for (int64_t i = image.window.first; i < image.window.last; ++i) {
            const bool uniform = config.image.step_weight == StepWeight::uniform;
            steps.sum_of_weights += uniform ? 1.0 : step_weight(image.timesteps[i], image.timesteps[i + 1]);
          }
          round_of(counts.image, round) += steps;
        }
      }
    }
  }
  return counts;
}

/// What a round is worth in the mean over all rounds.
double text_share(const TextLossConfig& config, const std::vector<TextNormalizer>& rounds, size_t round) {
  auto size = [&](const TextNormalizer& counts) {
    switch (config.aggregation) {
      case Aggregation::token_mean:
        return counts.num_tokens;
      case Aggregation::seq_mean:
        return counts.num_nonempty_rows;
      case Aggregation::fixed_length:
        return counts.num_rows;
    }
    return 0.0;
  };
  double total = 0;
  for (const TextNormalizer& counts : rounds) total += size(counts);
  return total > 0 ? size(rounds[round]) / total : 0.0;
}

double image_share(const std::vector<ImageNormalizer>& rounds, size_t round) {
  double total = 0;
  for (const ImageNormalizer& counts : rounds) total += counts.num_steps;
  return total > 0 ? rounds[round].num_steps / total : 0.0;
}

std::string metric(size_t round, const char* name) {
  return (round == 0 ? "" : "round_" + std::to_string(round) + "/") + name;
}

/// Losses of one micro-batch, round by round; adds their numbers to `stats`.
class Losses {
 public:
  Losses(const UpdateSetup& setup, const Counts& counts, const Advantages& advantages, UpdateStats& stats)
      : setup_(setup), config_(setup.config), counts_(counts), advantages_(advantages), stats_(stats) {}

  /// The sum that backward starts from; undefined where nothing is trained.
  at::Tensor total(const PackedBatch& packed, const Recomputed& now, const Recomputed& reference) {
    at::Tensor loss;
    auto add = [&](const at::Tensor& term) { loss = loss.defined() ? loss + term : term; };
    for (size_t round = 0; round < counts_.num_rounds(); ++round) {
      const auto texts = of_round(packed.text_round, static_cast<int64_t>(round));
      const auto images = of_round(packed.image_round, static_cast<int64_t>(round));
      if (!texts.empty() && trains_text(config_)) add(text(round, texts, packed, now, reference));
      if (!images.empty() && trains_images(config_)) add(image(round, images, packed, now, reference));
    }
    return loss;
  }

 private:
  void note(size_t round, const char* name, const at::Tensor& value) {
    stats_[metric(round, name)] += value.item<double>();
  }

  at::Tensor text(size_t round, const std::vector<size_t>& members, const PackedBatch& packed, const Recomputed& now,
                  const Recomputed& reference) {
    const TextTargets targets = text_targets(config_, packed, advantages_, members);
    auto rows = [&](const at::Tensor& flat) { return padded(flat, packed.text_lengths, members); };
    const TextLoss result =
        text_loss(config_.text,
                  {.log_probs = rows(now.text_log_probs),
                   .old_log_probs = rows(packed.text_old_log_probs),
                   .ref_log_probs = config_.text.kl_beta > 0 ? rows(reference.text_log_probs) : at::Tensor(),
                   .mask = targets.mask,
                   .advantages = targets.advantages},
                  counts_.text[round], setup_.rollout.max_tokens);
    note(round, "text/loss", result.loss);
    note(round, "text/kl", result.kl);
    note(round, "text/approx_kl", result.approx_kl);
    note(round, "text/clip_fraction", result.clip_fraction);
    return config_.text.weight * text_share(config_.text, counts_.text, round) * result.loss;
  }

  at::Tensor image(size_t round, const std::vector<size_t>& members, const PackedBatch& packed, const Recomputed& now,
                   const Recomputed& reference) {
    auto rows = [&](const at::Tensor& flat) { return padded(flat, packed.image_widths, members); };
    std::vector<double> values;
    for (const size_t i : members) values.push_back(advantages_.image[packed.rows[packed.image_segment_row[i]]]);
    ImageBatch batch{.log_probs = rows(now.image_log_probs),
                     .old_log_probs = rows(packed.image_old_log_probs),
                     .mask = length_mask(packed.image_widths, members),
                     .advantages = at::tensor(values).to(at::kFloat),
                     .log_ratios = {},
                     .step_weights = step_weights(config_, packed, members),
                     .penalty = {}};
    if (config_.image.ratio_norm) {
      batch.log_ratios = rows(flow::ratio_norm_log_ratio(setup_.rollout.sde, packed.x, now.velocity,
                                                         packed.velocity_old, packed.x_next, spans_of(packed)));
    }
    if (config_.image.penalty == flow::Penalty::velocity_mse) {
      batch.penalty = rows(flow::velocity_mse(now.velocity, reference.velocity));
    } else if (config_.image.penalty == flow::Penalty::latent_kl) {
      batch.penalty = rows(flow::latent_kl(setup_.rollout.sde, now.velocity, reference.velocity, spans_of(packed)));
    }
    const ImageLoss result = image_loss(config_.image, config_.advantage.clip, batch, counts_.image[round]);
    note(round, "image/loss", result.loss);
    note(round, "image/approx_kl", result.approx_kl);
    note(round, "image/clip_fraction", result.clip_fraction);
    note(round, "image/ratio", result.ratio_mean);
    if (config_.image.ratio_norm) note(round, "image/plain_ratio", result.plain_ratio_mean);
    if (config_.image.penalty == flow::Penalty::velocity_mse) {
      note(round, "image/velocity_mse", result.penalty);
    } else if (config_.image.penalty == flow::Penalty::latent_kl) {
      note(round, "image/latent_kl", result.penalty);
      const at::Tensor drift = rows(flow::velocity_mse(now.velocity.detach(), reference.velocity));
      note(round, "image/velocity_mse", drift.sum() / counts_.image[round].num_steps);
    }
    return image_share(counts_.image, round) * result.total;
  }

  const UpdateSetup& setup_;
  const GrpoConfig& config_;
  const Counts& counts_;
  const Advantages& advantages_;
  UpdateStats& stats_;
};

/// Largest difference from the rollout's log-probs, round by round.
void note_noise(const PackedBatch& packed, const Recomputed& now, UpdateStats& noise) {
  auto compare = [&](const at::Tensor& got, const at::Tensor& old, const std::vector<int64_t>& lengths,
                     const std::vector<int64_t>& rounds, const char* name) {
    if (!got.defined()) return;
    const auto rows = (got.detach() - old).abs().split_with_sizes(lengths);
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].numel() == 0) continue;
      double& most = noise[metric(static_cast<size_t>(rounds[i]), name)];
      most = std::max(most, rows[i].max().item<double>());
    }
  };
  compare(now.text_log_probs, packed.text_old_log_probs, packed.text_lengths, packed.text_round, "text/log_prob_diff");
  compare(now.image_log_probs, packed.image_old_log_probs, packed.image_widths, packed.image_round,
          "image/log_prob_diff");
}

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
  require_same_conditions(setup, trajectories, packed, now, setup.policy.weights_version());
  UpdateStats rounds;
  note_noise(packed, now, rounds);
  for (const auto& [name, value] : rounds) {
    double& most = name.ends_with("text/log_prob_diff") ? noise.text : noise.image;
    most = std::max(most, value);
  }
  return noise;
}

UpdateStats update(const UpdateSetup& setup, std::span<const Trajectory> trajectories, const Advantages& advantages,
                   double lr_factor) {
  const GrpoConfig& config = setup.config;
  const bool with_reference = needs_reference(config);
  const auto plan = plan_update(config, trajectories, advantages.keep);
  const uint64_t weights_version = setup.policy.weights_version();
  UpdateStats stats, noise;
  double micro_batches = 0, optimizer_steps = 0;
  for (size_t u = 0; u < plan.size(); ++u) {
    const Counts counts = count(config, trajectories, plan[u]);
    Losses losses(setup, counts, advantages, stats);
    setup.optimizer.zero_grad();
    for (const auto& rows : plan[u]) {
      const PackedBatch packed = pack_for(setup, trajectories, rows);
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
      require_same_conditions(setup, trajectories, packed, now, weights_version);
      if (u == 0) note_noise(packed, now, noise);  // the weights are still the rollout's
      const at::Tensor loss = losses.total(packed, now, reference);
      if (loss.defined() && loss.requires_grad()) loss.backward();
    }
    const optim::GradNorm norm = setup.clip.check(setup.optimizer.parameters());
    if (!norm.skip) {
      const optim::StepStats moved = setup.optimizer.step(lr_factor, norm.scale);
      if (moved.num_bf16 > 0) stats["optim/lost_updates"] += moved.lost_ratio();
    }
    setup.optimizer.zero_grad();
    stats["optim/grad_norm"] += norm.norm;
    ++optimizer_steps;
  }
  if (optimizer_steps > 0) {
    for (auto& [name, value] : stats) value /= optimizer_steps;
    stats.insert(noise.begin(), noise.end());
  }
  stats["optim/micro_batches"] = micro_batches;
  stats["optim/skipped"] = static_cast<double>(setup.clip.skipped());
  return stats;
}

}  // namespace unigrpo::grpo
