// A policy whose weights lie on a device says what it says on the CPU, and nothing crosses behind its back.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "policy/bagel/bagel.h"
#include "policy/load.h"
#include "support/pretend_device.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"

namespace unigrpo::policy {
namespace {

using testing::any_device;
using testing::close;

constexpr LatentGrid kGrid{4, 4};
/// The pretend device has few kernels of ours: attention and norms are composed, in another order.
double same() { return any_device().is_cuda() ? 1e-4 : 1e-5; }

PolicyConfig tiny(TrainMode train) {
  PolicyConfig config;
  config.model = UNIGRPO_TEST_DATA "/bagel_tiny";
  config.train = train;
  config.freeze = {};
  config.lora = {.rank = 4, .alpha = 8, .dropout = 0.3};
  return config;
}

std::unique_ptr<Bagel> on(c10::Device device, TrainMode train = TrainMode::full) {
  return Bagel::load(tiny(train), {.device = device, .seed = 5});
}

at::Tensor noise(at::IntArrayRef shape, uint64_t seed) { return tensor::normal(shape, {.seed = seed}); }

/// Texts, an image to edit, one to look at, states of images to draw.
TrainBatch batch() {
  TrainBatch batch;
  const VisionBlock seen{noise({3, 56, 42}, 1).clamp(-1, 1), {4, 3}};
  const LatentBlock clean{noise({16, 64}, 2), kGrid};
  auto states = [](int64_t count, uint64_t seed) {
    return NoisyBlock{noise({count, 16, 64}, seed), at::linspace(0.9, 0.3, count, at::kFloat), kGrid};
  };
  batch.prefixes = {{clean, seen, TextBlock{{5, 6, 7, 8}}}, {TextBlock{{9, 10}}}};
  batch.sequences = {{.prefix = 0, .blocks = {TextBlock{{11, 12, 13}}, states(2, 3)}},
                     {.prefix = 1, .blocks = {TextBlock{{14}}, states(1, 4), clean, seen, TextBlock{{15, 16}}}}};
  return batch;
}

/// Loss and gradients of a model in which adapters, if any, show.
std::pair<TrainOutput, NamedTensors> differentiated(UnifiedPolicy& model) {
  testing::randomize_adapters(model);
  TrainOutput out = model.forward_train(batch());
  (out.velocity.square().mean() + model.logits(out.text_hidden).square().mean()).backward();
  NamedTensors grads;
  for (const NamedTensor& parameter : model.parameters()) {
    if (parameter.tensor.grad().defined()) grads.push_back({parameter.name, parameter.tensor.grad().cpu()});
  }
  return {out, grads};
}

class OnDevice : public ::testing::TestWithParam<TrainMode> {};

TEST_P(OnDevice, TheTrainingForwardAndItsGradientsAreTheCpus) {
  const auto host = on(at::kCPU, GetParam()), device = on(any_device(), GetParam());
  for (const NamedTensor& parameter : device->parameters()) {
    ASSERT_EQ(parameter.tensor.device(), any_device()) << parameter.name;
  }
  const auto [want, want_grads] = differentiated(*host);
  const auto [got, got_grads] = differentiated(*device);
  ASSERT_EQ(got.velocity.device(), any_device());
  EXPECT_TRUE(close(got.velocity.cpu(), want.velocity, same()));
  EXPECT_TRUE(close(got.text_hidden.cpu(), want.text_hidden, same()));
  EXPECT_EQ(got.digests.back().back().latents, want.digests.back().back().latents);
  ASSERT_EQ(got_grads.size(), want_grads.size());
  for (size_t i = 0; i < got_grads.size(); ++i) {
    EXPECT_TRUE(close(got_grads[i].tensor, want_grads[i].tensor, same())) << got_grads[i].name;
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, OnDevice, ::testing::Values(TrainMode::full, TrainMode::lora));

struct Cached {
  at::Tensor logits, velocity;
  std::vector<Image> images;
};

Cached cached(Bagel& model) {
  Context context;
  std::vector<Context*> rows = {&context};
  const LatentBlock clean{noise({16, 64}, 2), kGrid};
  model.append_images(rows, std::vector<Block>{clean});
  const at::Tensor logits = model.append_text(rows, std::vector<std::vector<int64_t>>{{5, 6, 7}});
  const std::vector<const Context*> readers = {&context};
  const at::Tensor latents = noise({1, 16, 64}, 7).to(model.device());
  const at::Tensor velocity =
      model.denoise(readers, kGrid)->velocity(latents, at::full({1}, 0.5, latents.options().dtype(at::kFloat)));
  return {.logits = logits.cpu(), .velocity = velocity.cpu(), .images = model.decode(latents, kGrid)};
}

TEST(OnDevice, DecodingOverTheCacheIsTheCpus) {
  const auto host = on(at::kCPU), device = on(any_device());
  const Cached want = cached(*host), got = cached(*device);
  EXPECT_TRUE(close(got.logits, want.logits, same()));
  EXPECT_TRUE(close(got.velocity, want.velocity, same()));
  ASSERT_EQ(got.images.size(), 1U);
  for (size_t i = 0; i < want.images[0].pixels.size(); ++i) {
    EXPECT_NEAR(got.images[0].pixels[i], want.images[0].pixels[i], any_device().is_cuda() ? 1 : 0);  // rounded
  }
}

TEST(OnDevice, ADenoisingStepCopiesNothing) {
  if (any_device().is_cuda()) GTEST_SKIP() << "copies are counted on the pretend device";
  const auto model = on(any_device());
  Context context;
  model->append_text(std::vector<Context*>{&context}, std::vector<std::vector<int64_t>>{{5, 6, 7}});
  const auto denoiser = model->denoise(std::vector<const Context*>{&context}, kGrid);
  const at::Tensor latents = noise({1, 16, 64}, 7).to(any_device());
  const at::Tensor t = at::full({1}, 0.5, latents.options().dtype(at::kFloat));
  const testing::DeviceCopies before = testing::device_copies();
  denoiser->velocity(latents, t);
  const testing::DeviceCopies after = testing::device_copies();
  EXPECT_EQ(after.to_device - before.to_device, 0);
  EXPECT_EQ(after.to_host - before.to_host, 0);
}

}  // namespace
}  // namespace unigrpo::policy
