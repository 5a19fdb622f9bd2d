// Rollouts and updates on a device: the CPU's actions, and no more copies between the two than are counted here.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "grpo/update.h"
#include "rollout/engine.h"
#include "rollout/flow_sampler.h"
#include "rollout/text_decoder.h"
#include "support/pretend_device.h"
#include "support/pretend_graph.h"
#include "support/tensors.h"
#include "support/tiny_rollout.h"

namespace unigrpo::rollout {
namespace {

using testing::any_device;
using testing::close;
using testing::DeviceCopies;
using testing::kImage;
using testing::kText;

constexpr const char* kCounted = "copies are counted on the pretend device";

std::unique_ptr<policy::Bagel> tiny_on(c10::Device device, bool texts_end = true) {
  policy::PolicyConfig config;
  config.model = UNIGRPO_TEST_DATA "/bagel_tiny";
  config.freeze = {};
  auto model = policy::Bagel::load(config, {.device = device, .seed = 5});
  if (texts_end) testing::make_texts_end(*model);
  return model;
}

/// The copies that `call` makes.
template <typename Call>
DeviceCopies copies_of(const Call& call) {
  const DeviceCopies before = testing::device_copies();
  call();
  const DeviceCopies after = testing::device_copies();
  return {.to_device = after.to_device - before.to_device, .to_host = after.to_host - before.to_host};
}

std::vector<Trajectory> sampled(policy::Bagel& model, const RolloutConfig& config, double cfg_scale = 1,
                                bool stochastic = true) {
  const auto prompts = testing::prompts({"a red circle", "two squares beside a star", "a star"});
  RolloutRequest request = testing::request(prompts, 3);
  request.guidance.text_scale = cfg_scale;
  request.stochastic = stochastic;
  return RolloutEngine(model, config, {.device = model.device(), .seed = 3}, "Draw.").rollout(request);
}

/// `scale`: by which guidance enlarges a difference.
void expect_same(const std::vector<Trajectory>& got, const std::vector<Trajectory>& want, double scale = 1) {
  const double first = scale * (any_device().is_cuda() ? 1e-4 : 1e-5);
  const double later = 1e-3;  // a pixel of the image that the second turn reads may be rounded the other way
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_EQ(got[i].texts.size(), want[i].texts.size());
    for (size_t turn = 0; turn < want[i].texts.size(); ++turn) {
      const double same = turn == 0 ? first : later;
      EXPECT_EQ(got[i].texts[turn].ids, want[i].texts[turn].ids) << i;
      EXPECT_TRUE(close(got[i].texts[turn].log_probs, want[i].texts[turn].log_probs, same));
      EXPECT_TRUE(close(got[i].texts[turn].entropy, want[i].texts[turn].entropy, same));
    }
    ASSERT_EQ(got[i].flows.size(), want[i].flows.size());
    for (size_t turn = 0; turn < want[i].flows.size(); ++turn) {
      const double same = turn == 0 ? first : later;
      const FlowStream &drawn = got[i].flows[turn].stream(), &wanted = want[i].flows[turn].stream();
      if (want[i].flows[turn].num_actions() > 0) {
        EXPECT_TRUE(close(drawn.latents, wanted.latents, same));
      }
      EXPECT_TRUE(close(drawn.final_latent, wanted.final_latent, same));
      EXPECT_TRUE(close(drawn.velocities, wanted.velocities, same));
      EXPECT_TRUE(close(drawn.log_probs, wanted.log_probs, same));
      EXPECT_TRUE(drawn.latents.is_cpu() && drawn.final_latent.is_cpu());
    }
  }
}

TEST(RolloutOnDevice, DrawsTheCpusTokensAndLatents) {
  const auto host = tiny_on(at::kCPU), device = tiny_on(any_device());
  RolloutConfig config = testing::tiny_rollout();
  config.temperature = 1.2;
  expect_same(sampled(*device, config), sampled(*host, config));
  config.episode = {kText, kImage, kText, kImage};
  expect_same(sampled(*device, config), sampled(*host, config));
  expect_same(sampled(*device, config, 4.0), sampled(*host, config, 4.0), 4.0);
  config.temperature = 0;
  expect_same(sampled(*device, config, 1, false), sampled(*host, config, 1, false));
}

TEST(RolloutOnDevice, ATokenTakesItsStepThereAndItsActionHome) {
  if (any_device().is_cuda()) GTEST_SKIP() << kCounted;
  const auto model = tiny_on(any_device());
  policy::Context first, second;
  TextRow a(&first, StreamKey{.seed = 1}, 20), b(&second, StreamKey{.seed = 2}, 20);
  std::vector<TextRow*> rows = {&a, &b};
  decode_step(*model, rows, 1.0);
  for (int step = 0; step < 3; ++step) {
    const DeviceCopies copies = copies_of([&] { decode_step(*model, rows, 1.0); });
    EXPECT_EQ(copies.to_device, 2);  // who sees whom, with ids and places; the uniform numbers
    EXPECT_EQ(copies.to_host, 1);    // ids with log-probs and entropy
  }
}

TEST(RolloutOnDevice, DenoisingStepsCopyNothing) {
  if (any_device().is_cuda()) GTEST_SKIP() << kCounted;
  const auto model = tiny_on(any_device());
  const policy::Context nothing;
  auto copies = [&](int64_t steps) {
    RolloutConfig config = testing::tiny_rollout();
    config.num_steps = steps;
    const std::vector<DenoiseRequest> rows = {
        {.context = &nothing, .key = {.seed = 1}, .window = {.first = 0, .last = 2}},
        {.context = &nothing, .key = {.seed = 2}, .window = {.first = 1, .last = 4}}};
    return copies_of([&] { denoise(*model, config, rows, model->grid_for(64), {}, {}); });
  };
  const DeviceCopies few = copies(4), many = copies(9);
  EXPECT_EQ(few.to_device, many.to_device);
  EXPECT_EQ(few.to_host, many.to_host);
  EXPECT_EQ(few.to_device, 6);  // two rows of noise for each of two; who is stochastic when; who sees whom
  EXPECT_EQ(few.to_host, 4);    // states, velocities, log-probs and the last latents, at the end
}

TEST(RolloutOnDevice, RecordedDenoisingStepsCopyNothingAndHaveThePlainOnesBits) {
  if (any_device().is_cuda()) GTEST_SKIP() << kCounted;
  const auto model = tiny_on(any_device());
  const policy::Context nothing;
  RolloutConfig config = testing::tiny_rollout();
  config.num_steps = 9;
  const std::vector<DenoiseRequest> rows = {
      {.context = &nothing, .key = {.seed = 1}, .window = {.first = 0, .last = 2}},
      {.context = &nothing, .key = {.seed = 2}, .window = {.first = 1, .last = 4}}};
  std::vector<FlowSegment> drawn;
  const auto walk = [&] { drawn = denoise(*model, config, rows, model->grid_for(64), {}, {}); };
  const DeviceCopies plain_copies = copies_of(walk);
  const std::vector<FlowSegment> plain = drawn;
  testing::GraphCounts counts;
  model->use_graphs(testing::pretend_graphs(counts));
  const DeviceCopies recorded_copies = copies_of(walk);
  EXPECT_EQ(recorded_copies.to_device, plain_copies.to_device);
  EXPECT_EQ(recorded_copies.to_host, plain_copies.to_host);
  EXPECT_EQ(counts.records, 1);
  EXPECT_EQ(counts.plays, 7);  // of 9 steps the first is plain
  for (size_t i = 0; i < plain.size(); ++i) {
    EXPECT_TRUE(at::equal(drawn[i].stream().final_latent, plain[i].stream().final_latent));
    EXPECT_TRUE(at::equal(drawn[i].stream().log_probs, plain[i].stream().log_probs));
  }
}

TEST(RolloutOnDevice, ARecordedTokenCrossesAsAPlainOne) {
  if (any_device().is_cuda()) GTEST_SKIP() << kCounted;
  const auto model = tiny_on(any_device(), /*texts_end=*/false);
  std::vector<std::vector<int64_t>> ids;
  testing::GraphCounts counts;
  for (const bool recorded : {false, true}) {
    if (recorded) model->use_graphs(testing::pretend_graphs(counts));
    policy::Context first, second;
    TextRow a(&first, StreamKey{.seed = 1}, 20), b(&second, StreamKey{.seed = 2}, 20);
    std::vector<TextRow*> rows = {&a, &b};
    decode_step(*model, rows, 1.0);
    for (int step = 0; step < 9; ++step) {
      const DeviceCopies copies = copies_of([&] { decode_step(*model, rows, 1.0); });
      EXPECT_EQ(copies.to_device, 2);
      EXPECT_EQ(copies.to_host, 1);
    }
    ids.insert(ids.end(), {a.segment.ids, b.segment.ids});
    model->release(first);
    model->release(second);
  }
  EXPECT_EQ(counts.records, 1);
  EXPECT_EQ(counts.plays, 6);  // three are plain
  EXPECT_EQ(ids[2], ids[0]);
  EXPECT_EQ(ids[3], ids[1]);
}

TEST(RolloutOnDevice, GraphsHaveThePlainPathsBits) {
  if (!any_device().is_cuda()) GTEST_SKIP() << "graphs are CUDA's";
  const auto model = tiny_on(any_device());
  RolloutConfig config = testing::tiny_rollout();
  config.max_tokens = 40;
  config.num_steps = 8;
  for (const double scale : {1.0, 3.0}) {
    config.graphs = false;
    const auto plain = sampled(*model, config, scale);
    config.graphs = true;
    const auto recorded = sampled(*model, config, scale);
    ASSERT_EQ(recorded.size(), plain.size());
    for (size_t i = 0; i < plain.size(); ++i) {
      EXPECT_EQ(recorded[i].texts[0].ids, plain[i].texts[0].ids);
      EXPECT_TRUE(at::equal(recorded[i].texts[0].log_probs, plain[i].texts[0].log_probs));
      EXPECT_TRUE(at::equal(recorded[i].flows[0].stream().final_latent, plain[i].flows[0].stream().final_latent));
      EXPECT_TRUE(at::equal(recorded[i].flows[0].stream().log_probs, plain[i].flows[0].stream().log_probs));
    }
  }
}

struct Updated {
  grpo::UpdateStats stats;
  NamedTensors weights;
  DeviceCopies copies;
};

Updated updated(policy::Bagel& model, const RolloutConfig& config, grpo::GrpoConfig grpo,
                const std::vector<Trajectory>& trajectories, policy::Bagel* reference = nullptr) {
  optim::OptimConfig optim_config;
  optim_config.lr = 1e-3;
  optim::AdamW optimizer(optim_config, model.parameters());
  optim::GradClip clip(optim_config);
  grpo::Advantages advantages;
  for (size_t i = 0; i < trajectories.size(); ++i) {
    advantages.text.push_back(static_cast<double>(i % 3) - 1);
    advantages.image.push_back(1 - static_cast<double>(i % 3));
    advantages.keep.push_back(true);
  }
  Updated result;
  result.copies = copies_of([&] {
    const auto stats = grpo::update({.policy = model,
                                     .reference = reference,
                                     .optimizer = optimizer,
                                     .clip = clip,
                                     .config = grpo,
                                     .rollout = config,
                                     .runtime = {.device = model.device(), .threads = 1}},
                                    trajectories, advantages, 1.0);
    result.stats = stats.value();
  });
  for (const NamedTensor& weight : model.parameters()) {
    result.weights.push_back({weight.name, weight.tensor.detach().cpu()});
  }
  return result;
}

void expect_same(const Updated& got, const Updated& want) {
  for (const auto& [name, value] : want.stats) {
    ASSERT_TRUE(got.stats.contains(name)) << name;
    if (!name.ends_with("log_prob_diff")) {
      EXPECT_NEAR(got.stats.at(name), value, 1e-5 + 1e-4 * std::abs(value)) << name;
    }
  }
  for (size_t i = 0; i < want.weights.size(); ++i) {
    // A first step of AdamW moves a weight by the rate whichever way its gradient points: those near 0 may turn.
    const at::Tensor off = (got.weights[i].tensor - want.weights[i].tensor).norm() / want.weights[i].tensor.norm();
    EXPECT_LT(off.item<double>(), 1e-3) << want.weights[i].name;
  }
}

TEST(UpdateOnDevice, LearnsWhatTheCpuLearns) {
  RolloutConfig config = testing::tiny_rollout();
  config.episode = {kText, kImage, kText, kImage};
  grpo::GrpoConfig grpo;
  grpo.image.penalty = flow::Penalty::latent_kl;
  grpo.text.kl_beta = 0.1;
  grpo.image.step_weight = grpo::StepWeight::inverse_dt;
  for (const bool ratio_norm : {false, true}) {
    grpo.image.ratio_norm = ratio_norm;
    const auto host = tiny_on(at::kCPU), host_reference = tiny_on(at::kCPU);
    const auto device = tiny_on(any_device()), device_reference = tiny_on(any_device());
    const auto here = sampled(*host, config), there = sampled(*device, config);
    expect_same(updated(*device, config, grpo, there, device_reference.get()),
                updated(*host, config, grpo, here, host_reference.get()));
  }
}

TEST(UpdateOnDevice, NothingComesHomeBetweenMicroBatches) {
  if (any_device().is_cuda()) GTEST_SKIP() << kCounted;
  const RolloutConfig config = testing::tiny_rollout();
  auto copies = [&](int64_t micro_batch_tokens, double& count) {
    const auto model = tiny_on(any_device());
    grpo::GrpoConfig grpo;
    grpo.micro_batch_tokens = micro_batch_tokens;
    grpo.image.penalty = flow::Penalty::none;
    const auto trajectories = sampled(*model, config);
    const Updated result = updated(*model, config, grpo, trajectories);
    count = result.stats.at("optim/micro_batches");
    return result.copies;
  };
  double one = 0, many = 0;
  const DeviceCopies whole = copies(1 << 20, one), parts = copies(1, many);
  ASSERT_EQ(one, 1);
  ASSERT_EQ(many, 9);
  EXPECT_EQ(parts.to_host, whole.to_host);
  EXPECT_EQ(whole.to_host, 3);  // losses, differences, gradient norms
  EXPECT_EQ(parts.to_device, 9 * whole.to_device);
  EXPECT_EQ(whole.to_device,
            5);  // actions, the packed batch, coefficients, and masks with advantages of text and image
}

}  // namespace
}  // namespace unigrpo::rollout
