// An update over clips: ratio, clipping and penalty of each stream by itself.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <vector>

#include "flow/sde_step.h"
#include "grpo/minibatch_loss.h"
#include "grpo/update.h"
#include "policy/patterns.h"
#include "rollout/rules.h"
#include "support/tensors.h"
#include "support/tiny_av.h"
#include "support/tiny_rollout.h"

namespace unigrpo::grpo {
namespace {

using rollout::FlowSegment;
using rollout::Trajectory;
using testing::close;
using testing::TinyAv;

struct Outcome {
  UpdateStats stats;
  std::map<std::string, at::Tensor> grads;
};

class AvUpdate : public ::testing::Test {
 protected:
  AvUpdate() {
    for (ImageLossConfig* loss : {&config.video, &config.audio}) loss->clip_range = 0.9;
    config.video.penalty_weight = 0.3;
    config.audio.penalty_weight = 0.7;
    optim_config.lr = 0;
    optim_config.max_grad_norm = 0;
  }

  std::vector<Trajectory> roll() {
    const auto list = testing::prompts({TinyAv::prompt(0), TinyAv::prompt(1)});
    return rollout::RolloutEngine(*tiny.policy, rollout_config, {.seed = 9}, "").rollout(testing::request(list, 3));
  }
  /// Of the streams, unlike each other.
  static Advantages advantages_for(size_t count) {
    Advantages all;
    for (size_t i = 0; i < count; ++i) {
      all.video.push_back(0.5 * static_cast<double>(i % 3) - 0.5);
      all.audio.push_back(0.25 - 0.5 * static_cast<double>(i % 2));
      all.keep.push_back(true);
      all.rewards.emplace_back(0.0);
    }
    all.text.assign(count, 0);
    all.image.assign(count, 0);
    return all;
  }
  void move_a_little() {
    const at::NoGradGuard no_grad;
    uint64_t index = 100;
    for (const NamedTensor& p : tiny.policy->parameters()) {
      p.tensor.add_(tensor::normal(p.tensor.sizes(), {.prompt = ++index}) * 0.02 * p.tensor.abs().mean());
    }
  }
  UpdateSetup setup(optim::AdamW& optimizer, optim::GradClip& clip) {
    return {.policy = *tiny.policy,
            .reference = reference.get(),
            .optimizer = optimizer,
            .clip = clip,
            .config = config,
            .rollout = rollout_config};
  }
  Outcome run(std::vector<Trajectory> all) {
    for (Trajectory& t : all) {
      for (FlowSegment& flow : t.flows) flow.fingerprint.weights_version = tiny.policy->weights_version();
    }
    optim::AdamW optimizer(optim_config, tiny.policy->parameters());
    optim::GradClip clip(optim_config);
    Outcome outcome;
    outcome.stats = update(setup(optimizer, clip), all, advantages_for(all.size()), 1.0).value();
    for (const NamedTensor& state : optimizer.state().tensors) {
      const size_t dot = state.name.rfind('.');
      if (state.name.substr(dot + 1) == "exp_avg") {
        outcome.grads[state.name.substr(0, dot)] = state.tensor / (1 - optim_config.beta1);
      }
    }
    return outcome;
  }

  /// The loss of one stream, row by row and step by step as it is written, one network call a step.
  at::Tensor stream_loss(const std::vector<Trajectory>& all, const Advantages& advantages, size_t m) {
    const ImageLossConfig& loss = m == 0 ? config.video : config.audio;
    const auto sde = rollout::sde_of(rollout_config, m == 0 ? "video" : "audio");
    at::Tensor surrogate = at::zeros({}), penalty = at::zeros({});
    double steps = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const FlowSegment& flow = all[i].flows[0];
      const flow::SdeWindow own = flow.window_of(flow.streams[m]);
      for (int64_t step = flow.window.first; step < flow.window.last; ++step) {
        if (own.width() > 0 && !own.contains(step)) continue;
        const int64_t s = step - flow.window.first;
        const auto field = [&](policy::Ltx2& policy) {
          policy::TrainBatch batch;
          batch.prefixes = {all[i].prefix};
          std::vector<at::Tensor> latents;
          for (const auto& stream : flow.streams) latents.push_back(stream.latents.narrow(0, s, 1));
          const at::Tensor t = at::tensor({static_cast<float>(flow.timesteps[step])});
          const policy::ClipShape shape{flow.streams[0].grid, flow.streams[1].grid, flow.fps};
          batch.sequences = {{.prefix = 0, .blocks = {policy::NoisyClip{latents, t, shape}}}};
          return policy.forward_train(batch).clip_velocities[m];
        };
        const at::Tensor v = field(*tiny.policy), v_ref = field(*reference).detach();
        steps += 1;
        penalty = penalty + (v - v_ref).square().mean();
        if (own.width() == 0) continue;
        const auto& stream = flow.streams[m];
        const flow::TimeSpan span{
            .t = flow.timesteps[step], .t_next = flow.timesteps[step + 1], .t_max = flow.timesteps[1]};
        const flow::SdeMean now = flow::sde_mean(*sde, stream.latents.narrow(0, s, 1), v, span);
        const at::Tensor z = (stream.latents.narrow(0, s + 1, 1) - now.mean) / now.std.view({1, 1, 1});
        const at::Tensor log_prob = (-z.square() / 2).mean() - now.std.log().sum() - 0.5 * std::log(2 * M_PI);
        const at::Tensor ratio = (log_prob - stream.log_probs[s]).exp();
        const double a = (m == 0 ? advantages.video : advantages.audio)[i];
        surrogate = surrogate - at::minimum(ratio * a, ratio.clamp(1 - loss.clip_range, 1 + loss.clip_range) * a);
      }
    }
    return loss.weight * surrogate / steps + loss.penalty_weight * penalty / steps;
  }

  TinyAv tiny;
  std::unique_ptr<policy::Ltx2> reference = tiny.load();
  rollout::RolloutConfig rollout_config = testing::tiny_av_rollout();
  GrpoConfig config;
  optim::OptimConfig optim_config;
};

TEST_F(AvUpdate, RatiosBeginAtOneStreamByStream) {
  const auto all = roll();
  optim::AdamW optimizer(optim_config, tiny.policy->parameters());
  optim::GradClip clip(optim_config);
  const LogProbNoise noise = measure_log_prob_noise(setup(optimizer, clip), all);
  EXPECT_LT(noise.video, 1e-6);  // float32
  EXPECT_LT(noise.audio, 1e-6);
  const UpdateStats stats = run(all).stats;
  for (const std::string stream : {"video", "audio"}) {
    EXPECT_NEAR(stats.at(stream + "/ratio"), 1, 1e-6) << stream;
    EXPECT_EQ(stats.at(stream + "/clip_fraction"), 0) << stream;
    EXPECT_NEAR(stats.at(stream + "/velocity_mse"), 0, 1e-10) << stream;
    EXPECT_LT(stats.at(stream + "/log_prob_diff"), 1e-6) << stream;
  }
  EXPECT_EQ(stats.count("image/loss"), 0u);
}

TEST_F(AvUpdate, TheGradientIsThatOfTheStreamsLossesAsTheyAreWritten) {
  rollout_config.window = {.mode = flow::WindowMode::fixed, .width = 2, .first = 0};
  rollout_config.audio_window_offset = 1;  // the streams' windows differ
  config.micro_batch_tokens = 80;          // several micro-batches
  const auto all = roll();
  move_a_little();
  const Outcome outcome = run(all);
  EXPECT_GT(outcome.stats.at("optim/micro_batches"), 1);
  const Advantages advantages = advantages_for(all.size());
  const at::Tensor loss = stream_loss(all, advantages, 0) + stream_loss(all, advantages, 1);
  std::vector<at::Tensor> leaves;
  for (const NamedTensor& p : tiny.policy->parameters()) leaves.push_back(p.tensor);
  const auto grads = torch::autograd::grad({loss}, leaves, {}, std::nullopt, false, /*allow_unused=*/true);
  double most = 0;
  for (const at::Tensor& grad : grads) most = std::max(most, grad.defined() ? grad.abs().max().item<double>() : 0);
  EXPECT_GT(most, 1e-3);
  for (size_t i = 0; i < leaves.size(); ++i) {
    const std::string name = tiny.policy->parameters()[i].name;
    const auto found = outcome.grads.find(name);
    ASSERT_NE(found, outcome.grads.end()) << name;
    if (!grads[i].defined()) continue;
    EXPECT_TRUE(close(found->second, grads[i], 1e-5 * most, 1e-3)) << name;
  }
}

TEST_F(AvUpdate, AStreamsWeightConcernsItsOwnLossAlone) {
  const auto all = roll();
  move_a_little();
  const Outcome both = run(all);
  config.audio.weight = 0;
  const Outcome video = run(all);
  config.audio.weight = 1;
  config.video.weight = 0;
  const Outcome audio = run(all);
  EXPECT_EQ(video.stats.count("audio/loss"), 0u);
  EXPECT_EQ(audio.stats.count("video/loss"), 0u);
  EXPECT_NEAR(video.stats.at("video/loss"), both.stats.at("video/loss"), 1e-6);
  EXPECT_NEAR(audio.stats.at("audio/loss"), both.stats.at("audio/loss"), 1e-6);
  for (const auto& [name, grad] : both.grads) {
    const at::Tensor sum = video.grads.at(name) + audio.grads.at(name);
    EXPECT_TRUE(close(grad, sum, 1e-5 * std::max(1e-3, grad.abs().max().item<double>()), 1e-4)) << name;
  }
  // Through the attention between the streams each loss reaches the other's layers.
  EXPECT_GT(video.grads.at("transformer.transformer_blocks.0.audio_attn1.to_v.weight").abs().max().item<double>(), 0);
}

TEST_F(AvUpdate, AStreamThatGoesByOdeHasItsPenaltyAlone) {
  rollout_config.audio_noise_level = 0;
  const auto all = roll();
  move_a_little();
  const UpdateStats stats = run(all).stats;
  EXPECT_EQ(stats.at("audio/loss"), 0);
  EXPECT_GT(stats.at("audio/velocity_mse"), 0);
  EXPECT_EQ(stats.count("audio/log_prob_diff"), 0u);
  EXPECT_NE(stats.at("video/ratio"), 1);
  EXPECT_NEAR(stats.at("audio/velocity_mse") * config.audio.penalty_weight,
              stream_loss(all, advantages_for(all.size()), 1).item<double>(), 1e-6);
}

/// The loss falls along its gradient as fast as the gradient says.
TEST_F(AvUpdate, FiniteDifferencesAgreeWithTheGradient) {
  const auto all = roll();
  move_a_little();
  const Outcome outcome = run(all);
  const Advantages advantages = advantages_for(all.size());
  const at::NoGradGuard no_grad;
  double squared = 0;
  for (const auto& [name, grad] : outcome.grads) squared += grad.square().sum().item<double>();
  const auto shifted = [&](double by) {
    for (const NamedTensor& p : tiny.policy->parameters()) p.tensor.add_(outcome.grads.at(p.name) * by);
    const double loss = (stream_loss(all, advantages, 0) + stream_loss(all, advantages, 1)).item<double>();
    for (const NamedTensor& p : tiny.policy->parameters()) p.tensor.sub_(outcome.grads.at(p.name) * by);
    return loss;
  };
  const double step = 1e-2 / std::sqrt(squared);
  const double slope = (shifted(step) - shifted(-step)) / (2 * step);
  EXPECT_NEAR(slope / squared, 1, 1e-2);  // float32 losses over a step of 1e-2
}

}  // namespace
}  // namespace unigrpo::grpo
