#include "grpo/update.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "grpo/pack.h"
#include "support/tensors.h"
#include "support/tiny_rollout.h"

namespace unigrpo::grpo {
namespace {

using data::SegmentKind;
using rollout::RolloutConfig;
using rollout::Trajectory;
using testing::close;
using testing::kImage;
using testing::kText;
using testing::parameter;

constexpr double kSame = 1e-5;  // float32; other batches sum in other orders

/// What an update did: its numbers, and the gradient that reached the optimizer (before clipping).
struct Outcome {
  UpdateStats stats;
  std::map<std::string, at::Tensor> grads;
  std::map<std::string, int64_t> steps;
};

NamedTensors trained(const policy::Bagel& model) {
  NamedTensors list;
  for (const NamedTensor& p : model.parameters()) {
    if (p.tensor.requires_grad()) list.push_back(p);
  }
  return list;
}

/// A small keyed push of all that is trained: the policy is no longer the one that sampled.
void move_a_little(policy::Bagel& model, double size = 0.02) {
  const at::NoGradGuard no_grad;
  uint64_t index = 100;
  for (const NamedTensor& p : trained(model)) {
    p.tensor.add_(tensor::normal(p.tensor.sizes(), {.prompt = ++index}) * size * p.tensor.abs().mean());
  }
}

class Update : public ::testing::Test {
 protected:
  explicit Update(policy::TrainMode train = policy::TrainMode::full) : model(testing::tiny_bagel(train)) {
    testing::make_texts_end(*model);
    if (train == policy::TrainMode::full) {
      reference = testing::tiny_bagel();
      testing::make_texts_end(*reference);
    }
    optim_config.lr = 0;
    optim_config.max_grad_norm = 0;
  }

  std::vector<Trajectory> roll(int64_t group_size = 4) const {
    rollout::RolloutRequest request = testing::request(list, group_size);
    request.guidance.text_scale = rollout_config.rollout_cfg_scale;
    return rollout::RolloutEngine(*model, rollout_config, {.seed = 21}, "").rollout(request);
  }
  static Advantages advantages_for(const std::vector<Trajectory>& all) {
    Advantages advantages;
    for (size_t i = 0; i < all.size(); ++i) {
      advantages.text.push_back(0.5 * static_cast<double>(i % 4) - 0.75);
      advantages.keep.push_back(true);
      advantages.rewards.emplace_back(advantages.text.back());
    }
    advantages.image = advantages.text;
    advantages.num_groups = static_cast<int64_t>(all.size()) / 4;
    return advantages;
  }
  /// Trains on rollouts of earlier weights too, which update() refuses: they count as the present ones'.
  Outcome run(std::vector<Trajectory> all, const Advantages& advantages) {
    for (Trajectory& trajectory : all) {
      for (auto& text : trajectory.texts) text.fingerprint.weights_version = model->weights_version();
      for (auto& flow : trajectory.flows) flow.fingerprint.weights_version = model->weights_version();
    }
    optim::AdamW optimizer(optim_config, trained(*model));
    optim::GradClip clip(optim_config);
    Outcome outcome;
    outcome.stats = update({.policy = *model,
                            .reference = reference.get(),
                            .optimizer = optimizer,
                            .clip = clip,
                            .config = config,
                            .rollout = rollout_config,
                            .runtime = runtime},
                           all, advantages, 1.0)
                        .value();
    for (const NamedTensor& state : optimizer.state().tensors) {
      const size_t dot = state.name.rfind('.');
      const std::string name = state.name.substr(0, dot), what = state.name.substr(dot + 1);
      if (what == "exp_avg") outcome.grads[name] = state.tensor / (1 - optim_config.beta1);
      if (what == "step") outcome.steps[name] = state.tensor.item<int64_t>();
    }
    return outcome;
  }
  Outcome run(const std::vector<Trajectory>& all) { return run(all, advantages_for(all)); }

  static void expect_same(const Outcome& a, const Outcome& b, const std::string& what) {
    for (const auto& [name, value] : a.stats) {
      if (name == "optim/micro_batches") continue;
      EXPECT_NEAR(value, b.stats.at(name), kSame * std::max(1.0, std::abs(value))) << what << ": " << name;
    }
    double largest = 0;
    for (const auto& [name, grad] : a.grads) largest = std::max(largest, grad.abs().max().item<double>());
    EXPECT_GT(largest, 0) << what;
    for (const auto& [name, grad] : a.grads) {
      EXPECT_TRUE(close(b.grads.at(name), grad, kSame * largest)) << what << ": " << name;
    }
  }

  const std::vector<data::Prompt> list = testing::prompts({"a red circle", "two squares beside a star", "a star"});
  std::unique_ptr<policy::Bagel> model, reference;
  RolloutConfig rollout_config = testing::tiny_rollout();
  GrpoConfig config;
  Runtime runtime = {.threads = 1};
  optim::OptimConfig optim_config;
};

class LoraUpdate : public Update {
 protected:
  LoraUpdate() : Update(policy::TrainMode::lora) {}
};

TEST_F(Update, MicroBatchesChangeNeitherNumbersNorGradients) {
  const auto all = roll();
  move_a_little(*model);
  config.text.kl_beta = 0.1;
  auto compare = [&](const std::string& what) {
    config.micro_batch_tokens = 100000;
    const Outcome whole = run(all);
    EXPECT_EQ(whole.stats.at("optim/micro_batches"), 1) << what;
    for (const int64_t tokens : {200, 1}) {
      config.micro_batch_tokens = tokens;
      const Outcome parts = run(all);
      EXPECT_GT(parts.stats.at("optim/micro_batches"), 2) << what;
      expect_same(whole, parts, what);
    }
  };
  compare("token_mean");
  config.text.aggregation = Aggregation::seq_mean;
  config.text.importance = Importance::sequence;
  config.image.step_weight = StepWeight::inverse_dt;
  compare("seq_mean, sequence ratios, inverse_dt");
  config.text.aggregation = Aggregation::fixed_length;
  config.text.importance = Importance::cispo;
  config.text.truncated = Truncated::mask;
  config.image.context_gradient = ContextGradient::detached;
  config.image.penalty = flow::Penalty::latent_kl;
  compare("fixed_length, cispo, truncated texts masked, detached context, latent_kl");
  config.image.ratio_norm = true;
  config.text.truncated = Truncated::penalize;
  compare("ratio_norm, truncated texts penalized");
}

/// The update on one thread and on workers, by its bits.
template <typename Run>
void expect_same_bits_on_workers(Runtime& runtime, const Run& run) {
  runtime.threads = 1;
  const Outcome one = run();
  EXPECT_GE(one.stats.at("optim/micro_batches"), 4);
  EXPECT_GT(one.stats.at("optim/grad_norm"), 0);
  for (const int64_t threads : {2, 3, 16}) {
    runtime.threads = threads;
    const Outcome many = run();
    EXPECT_EQ(many.stats, one.stats) << threads;
    ASSERT_EQ(many.grads.size(), one.grads.size());
    for (const auto& [name, grad] : one.grads) EXPECT_TRUE(at::equal(many.grads.at(name), grad)) << name;
    EXPECT_EQ(many.steps, one.steps);
  }
}

TEST_F(Update, AnyNumberOfWorkersGivesTheSameBits) {
  model = testing::embedded_bagel();
  reference = testing::embedded_bagel();
  ASSERT_TRUE(policy::is_small(*model));
  const auto all = roll();
  move_a_little(*model);
  config.micro_batch_tokens = 150;
  config.image.penalty = flow::Penalty::velocity_mse;
  config.text.kl_beta = 0.1;
  expect_same_bits_on_workers(runtime, [&] { return run(all); });
  config.num_minibatches = 2;
  expect_same_bits_on_workers(runtime, [&] { return run(all); });
}

TEST_F(LoraUpdate, AnyNumberOfWorkersGivesTheSameBits) {
  model = testing::embedded_bagel(policy::TrainMode::lora);
  ASSERT_TRUE(policy::is_small(*model));
  testing::randomize_adapters(*model);
  const auto all = roll();
  config.micro_batch_tokens = 150;
  config.image.penalty = flow::Penalty::velocity_mse;
  config.text.kl_beta = 0.1;
  expect_same_bits_on_workers(runtime, [&] { return run(all); });
}

TEST_F(Update, AStopWithinABackwardDropsTheMiniBatch) {
  std::atomic<int> signal{0};
  policy::PolicyConfig loaded;
  loaded.model = UNIGRPO_TEST_DATA "/bagel_tiny";
  model = policy::Bagel::load(loaded, {.stop = StopToken(signal), .seed = 5});
  const auto all = roll();
  // It comes with the first gradient, which is that of what the hidden states are read by.
  parameter(*model, "language_model.lm_head.weight").register_hook([&](const at::Tensor& /*grad*/) { signal = 15; });
  optim::AdamW optimizer(optim_config, trained(*model));
  optim::GradClip clip(optim_config);
  EXPECT_EQ(update({.policy = *model,
                    .reference = nullptr,
                    .optimizer = optimizer,
                    .clip = clip,
                    .config = config,
                    .rollout = rollout_config,
                    .runtime = {.stop = StopToken(signal), .threads = 1}},
                   all, advantages_for(all), 1.0),
            std::nullopt);
  EXPECT_EQ(signal.load(), 15);
  for (const NamedTensor& p : trained(*model)) EXPECT_FALSE(p.tensor.grad().defined()) << p.name;
}

TEST_F(Update, AStopDropsTheMiniBatch) {
  model = testing::embedded_bagel();
  reference = testing::embedded_bagel();
  const auto all = roll();
  config.micro_batch_tokens = 150;
  std::atomic<int> signal{15};
  for (const int64_t threads : {1, 2}) {
    optim::AdamW optimizer(optim_config, trained(*model));
    optim::GradClip clip(optim_config);
    const auto version = model->weights_version();
    EXPECT_EQ(update({.policy = *model,
                      .reference = reference.get(),
                      .optimizer = optimizer,
                      .clip = clip,
                      .config = config,
                      .rollout = rollout_config,
                      .runtime = {.stop = StopToken(signal), .threads = threads}},
                     all, advantages_for(all), 1.0),
              std::nullopt);
    EXPECT_EQ(model->weights_version(), version);
    for (const NamedTensor& p : trained(*model)) EXPECT_FALSE(p.tensor.grad().defined()) << p.name;
  }
}

TEST_F(Update, RowsMayComeInAnyOrder) {
  const auto all = roll();
  move_a_little(*model);
  const Advantages advantages = advantages_for(all);
  const Outcome straight = run(all, advantages);
  std::vector<Trajectory> turned(all.rbegin(), all.rend());
  Advantages turned_advantages = advantages;
  std::ranges::reverse(turned_advantages.text);
  std::ranges::reverse(turned_advantages.image);
  expect_same(straight, run(turned, turned_advantages), "reversed");
}

void expect_ratio_one(const Outcome& outcome, const std::string& what) {
  EXPECT_LT(outcome.stats.at("text/log_prob_diff"), kSame) << what;
  EXPECT_LT(outcome.stats.at("image/log_prob_diff"), kSame) << what;
  EXPECT_NEAR(outcome.stats.at("image/ratio"), 1, kSame) << what;
  EXPECT_NEAR(outcome.stats.at("text/approx_kl"), 0, kSame) << what;
  EXPECT_NEAR(outcome.stats.at("image/approx_kl"), 0, kSame) << what;
  EXPECT_EQ(outcome.stats.at("text/clip_fraction"), 0) << what;
  EXPECT_EQ(outcome.stats.at("image/clip_fraction"), 0) << what;
}

TEST_F(Update, UnchangedWeightsHaveRatioOneForEverySde) {
  for (const double guidance : {1.0, 2.0}) {
    for (const flow::SdeKind kind : {flow::SdeKind::flow_sde, flow::SdeKind::cps, flow::SdeKind::dance}) {
      rollout_config.sde.kind = kind;
      rollout_config.rollout_cfg_scale = guidance;
      rollout_config.window.mode = flow::WindowMode::all;
      const Outcome outcome = run(roll());
      const std::string what = std::string(enum_name(kind)) + ", guidance " + std::to_string(guidance);
      expect_ratio_one(outcome, what);
      EXPECT_NEAR(outcome.stats.at("image/velocity_mse"), 0, 1e-9) << what;
    }
  }
}

TEST_F(LoraUpdate, UnchangedWeightsHaveRatioOneForEverySde) {
  testing::randomize_adapters(*model);
  for (const double guidance : {1.0, 2.0}) {
    for (const flow::SdeKind kind : {flow::SdeKind::flow_sde, flow::SdeKind::cps, flow::SdeKind::dance}) {
      rollout_config.sde.kind = kind;
      rollout_config.rollout_cfg_scale = guidance;
      const Outcome outcome = run(roll());
      const std::string what = std::string(enum_name(kind)) + ", guidance " + std::to_string(guidance);
      expect_ratio_one(outcome, what);
      EXPECT_GT(outcome.stats.at("image/velocity_mse"), 1e-6) << what << ": the reference has no adapters";
    }
  }
}

TEST_F(LoraUpdate, TheReferenceIsTheModelWithoutItsAdapters) {
  const auto all = roll();  // B is 0: the policy is the base
  config.text.kl_beta = 0.1;
  const Outcome at_base = run(all);
  EXPECT_NEAR(at_base.stats.at("text/kl"), 0, 1e-9);
  EXPECT_NEAR(at_base.stats.at("image/velocity_mse"), 0, 1e-9);
  testing::randomize_adapters(*model);
  const Outcome away = run(all);
  EXPECT_GT(away.stats.at("text/kl"), 1e-6);
  EXPECT_GT(away.stats.at("image/velocity_mse"), 1e-6);
}

TEST_F(Update, SeveralUpdatesUseWholeGroupsOfTheirOwn) {
  const auto all = roll();
  config.num_minibatches = 2;
  std::vector<bool> keep(all.size(), true);
  keep[5] = false;
  const auto plan = plan_update(config, all, keep);
  ASSERT_EQ(plan.size(), 2U);
  std::set<int64_t> rows;
  std::vector<std::set<int64_t>> groups(2);
  for (size_t u = 0; u < 2; ++u) {
    for (const auto& batch : plan[u].micro_batches) {
      for (const int64_t row : batch) {
        EXPECT_TRUE(rows.insert(row).second);
        groups[u].insert(all[row].prompt_index);
      }
    }
  }
  EXPECT_EQ(rows.size(), all.size() - 1);
  EXPECT_FALSE(rows.contains(5));
  for (const int64_t group : groups[0]) EXPECT_FALSE(groups[1].contains(group));
  config.num_minibatches = 3;
  optim_config.lr = 1e-4;
  const Outcome outcome = run(all);
  EXPECT_EQ(outcome.steps.at("llm2vae.weight"), 3);
  EXPECT_LT(outcome.stats.at("text/log_prob_diff"), kSame) << "measured on the first mini-batch alone";
}

TEST_F(Update, EachMinibatchHasGroupsOfEveryTaskAndAMicroBatchOfOne) {
  auto all = roll();
  const int64_t groups = all.back().prompt_index + 1;
  ASSERT_EQ(groups, 3);
  std::vector<rollout::Trajectory> twice = all;
  for (auto trajectory : all) {  // the second task's groups stand behind the first one's
    trajectory.prompt_index += groups;
    trajectory.task = 1;
    twice.push_back(trajectory);
  }
  config.num_minibatches = 3;
  const auto plan = plan_update(config, twice, std::vector<bool>(twice.size(), true));
  ASSERT_EQ(plan.size(), 3U);
  for (size_t u = 0; u < 3; ++u) {
    std::set<int64_t> own;
    for (const int64_t row : plan[u].rows) own.insert(twice[row].prompt_index);
    EXPECT_EQ(own, (std::set<int64_t>{static_cast<int64_t>(u), static_cast<int64_t>(u) + groups}));
    for (const auto& batch : plan[u].micro_batches) {
      for (const int64_t row : batch) EXPECT_EQ(twice[row].task, twice[batch.front()].task);
    }
  }
}

TEST_F(Update, DroppedGroupsTakeNoUpdatesAway) {
  const auto all = roll();
  Advantages advantages = advantages_for(all);
  for (size_t i = 0; i < all.size(); ++i) advantages.keep[i] = all[i].prompt_index == 1;  // of three groups one
  advantages.keep[5] = false;                                                             // and not all of it
  for (const int64_t updates : {2, 3}) {
    config.num_minibatches = updates;
    std::set<int64_t> rows;
    const auto plan = plan_update(config, all, advantages.keep);
    EXPECT_EQ(plan.size(), static_cast<size_t>(updates));
    for (const auto& minibatch : plan) {
      for (const auto& batch : minibatch.micro_batches) rows.insert(batch.begin(), batch.end());
    }
    EXPECT_EQ(rows, (std::set<int64_t>{4, 6, 7}));
  }
  EXPECT_EQ(run(all, advantages).steps.at("llm2vae.weight"), 3);
}

TEST_F(Update, TheKlIsMeasuredWhereAReferenceIsAtHandAndElseAbsent) {
  const auto all = roll();
  move_a_little(*model);
  EXPECT_GT(run(all).stats.at("text/kl"), 0);  // the image penalty asks for the reference
  config.image.penalty = flow::Penalty::none;
  EXPECT_FALSE(run(all).stats.contains("text/kl"));
  config.text.kl_beta = 0.1;
  EXPECT_GT(run(all).stats.at("text/kl"), 0);
}

TEST_F(Update, AStepLowersTheLossOfBothParts) {
  const auto all = roll();
  config.image.penalty = flow::Penalty::none;
  config.image.clip_range = 10;  // unclipped, so that the surrogate says what changed
  config.text.clip_low = 0.9;
  config.text.clip_high = 10;
  optim_config.lr = 1e-4;
  const Outcome before = run(all);
  optim_config.lr = 0;
  const Outcome after = run(all);
  EXPECT_LT(after.stats.at("text/loss"), before.stats.at("text/loss") - 1e-4);
  EXPECT_LT(after.stats.at("image/loss"), before.stats.at("image/loss") - 1e-6);
}

TEST_F(Update, RatioNormStartsAtOneAndMovesWithThePolicy) {
  config.image.ratio_norm = true;
  for (const flow::SdeKind kind : {flow::SdeKind::flow_sde, flow::SdeKind::dance}) {
    rollout_config.sde.kind = kind;
    const auto all = roll();
    const Outcome same = run(all);
    EXPECT_NEAR(same.stats.at("image/ratio"), 1, kSame);
    EXPECT_NEAR(same.stats.at("image/plain_ratio"), 1, kSame);
  }
  const auto all = roll();
  move_a_little(*model);
  const Outcome moved = run(all);
  EXPECT_TRUE(std::isfinite(moved.stats.at("image/ratio")));
  EXPECT_NE(moved.stats.at("image/ratio"), moved.stats.at("image/plain_ratio"));
}

/// Parameters that the text loss reaches and the image loss does not, and the other way round.
bool of_text_alone(const std::string& name) {
  return name == "language_model.lm_head.weight" || name == "language_model.model.norm.weight";
}
bool of_images_alone(const std::string& name) {
  return name.find("moe_gen") != std::string::npos || name.starts_with("vae2llm") || name.starts_with("llm2vae") ||
         name.starts_with("time_embedder") || name.starts_with("latent_pos_embed");
}

TEST_F(Update, AWeightOfZeroTrainsOnePartAlone) {
  const auto all = roll();
  move_a_little(*model);
  optim_config.lr = 1e-3;
  for (const bool text : {true, false}) {
    config.text.weight = text ? 1 : 0;
    config.image.weight = text ? 0 : 1;
    std::map<std::string, at::Tensor> before;
    for (const NamedTensor& p : model->parameters()) before[p.name] = p.tensor.detach().clone();
    const Outcome outcome = run(all);
    EXPECT_EQ(outcome.stats.contains("text/loss"), text);
    EXPECT_EQ(outcome.stats.contains("image/loss"), !text);
    int still = 0;
    for (const NamedTensor& p : model->parameters()) {
      const bool may_move = text ? !of_images_alone(p.name) : !of_text_alone(p.name);
      if (may_move) continue;
      EXPECT_TRUE(at::equal(p.tensor, before.at(p.name))) << p.name;
      ++still;
    }
    EXPECT_GE(still, text ? 20 : 2);
    const std::string shared = "language_model.model.layers.0.self_attn.k_proj.weight";
    EXPECT_FALSE(at::equal(parameter(*model, shared), before.at(shared)));
    const std::string own = text ? "language_model.lm_head.weight" : "llm2vae.weight";
    EXPECT_FALSE(at::equal(parameter(*model, own), before.at(own)));
  }
}

TEST_F(Update, ZeroAdvantagesWithoutAPenaltyMoveNothing) {
  const auto all = roll();
  config.image.penalty = flow::Penalty::none;
  Advantages advantages = advantages_for(all);
  std::ranges::fill(advantages.text, 0.0);
  std::ranges::fill(advantages.image, 0.0);
  for (const auto& [name, grad] : run(all, advantages).grads) EXPECT_EQ(grad.abs().max().item<double>(), 0) << name;
}

TEST_F(Update, NothingKeptIsNoStep) {
  const auto all = roll();
  Advantages advantages = advantages_for(all);
  advantages.keep.assign(all.size(), false);
  const Outcome outcome = run(all, advantages);
  EXPECT_EQ(outcome.stats.at("optim/micro_batches"), 0);
  EXPECT_EQ(outcome.steps.at("llm2vae.weight"), 0);
}

TEST_F(Update, DroppedRowsHaveNoPartInIt) {
  const auto all = roll();
  move_a_little(*model);
  Advantages advantages = advantages_for(all);
  std::vector<Trajectory> kept;
  Advantages of_kept;
  for (size_t i = 0; i < all.size(); ++i) {
    advantages.keep[i] = i % 3 != 0;
    if (!advantages.keep[i]) continue;
    kept.push_back(all[i]);
    of_kept.text.push_back(advantages.text[i]);
    of_kept.image.push_back(advantages.image[i]);
    of_kept.keep.push_back(true);
  }
  expect_same(run(kept, of_kept), run(all, advantages), "dropped");
}

TEST_F(Update, TextsThatAreAllTruncatedAndMaskedLeaveTheImagesTraining) {
  rollout_config.max_tokens = 1;
  auto all = roll();
  std::erase_if(all, [](const Trajectory& t) { return t.texts[0].finished; });
  ASSERT_GT(all.size(), 2U);
  config.text.truncated = Truncated::mask;
  for (const Aggregation aggregation : {Aggregation::token_mean, Aggregation::seq_mean, Aggregation::fixed_length}) {
    config.text.aggregation = aggregation;
    const Outcome outcome = run(all);
    for (const auto& [name, value] : outcome.stats) EXPECT_TRUE(std::isfinite(value)) << name;
    EXPECT_EQ(outcome.grads.at("language_model.lm_head.weight").abs().max().item<double>(), 0);
    EXPECT_GT(outcome.grads.at("llm2vae.weight").abs().max().item<double>(), 0);
  }
}

TEST_F(Update, EpisodesOfOneKindAndOfSeveralSegments) {
  for (const std::vector<SegmentKind>& episode :
       std::vector<std::vector<SegmentKind>>{{kText}, {kImage}, {kText, kImage, kText, kImage}}) {
    rollout_config.episode = episode;
    const auto all = roll();
    config.micro_batch_tokens = 100000;
    const Outcome whole = run(all);
    for (const SegmentKind kind : {kText, kImage}) {
      const bool there = std::ranges::find(episode, kind) != episode.end();
      const std::string name = std::string(enum_name(kind)) + "/log_prob_diff";
      ASSERT_EQ(whole.stats.contains(name), there);
      if (there) {
        EXPECT_LT(whole.stats.at(name), kSame);
      }
    }
    config.micro_batch_tokens = 200;
    expect_same(whole, run(all), std::string(enum_name(episode.front())));
  }
}

}  // namespace
}  // namespace unigrpo::grpo
