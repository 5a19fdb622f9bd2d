// A pair of models under the update, and what is exported of it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/export_model.h"
#include "grpo/update.h"
#include "io/atomic_file.h"
#include "policy/load.h"
#include "support/tensors.h"
#include "support/tiny_pair.h"
#include "support/tiny_rollout.h"

namespace unigrpo::grpo {
namespace {

using rollout::Trajectory;
using testing::close;

constexpr double kSame = 1e-5;  // float32; other batches sum in other orders

class PairedUpdate : public ::testing::Test {
 protected:
  explicit PairedUpdate(policy::TrainMode train = policy::TrainMode::full) : model(folder.load(train)) {
    testing::make_texts_end(*model);
    if (train == policy::TrainMode::full) {
      reference = folder.load();
      testing::make_texts_end(*reference);
    }
    config.text.kl_beta = 0.1;
    optim_config.lr = 1e-3;
  }

  std::vector<Trajectory> roll(uint64_t step = 1) {
    rollout::RolloutRequest request = testing::request(list, 4);
    request.step = step;
    return rollout::RolloutEngine(*model, rollout_config, {.seed = 21}, "").rollout(request);
  }
  UpdateStats train(const std::vector<Trajectory>& all) {
    NamedTensors trained;
    for (const NamedTensor& p : model->parameters()) {
      if (p.tensor.requires_grad()) trained.push_back(p);
    }
    Advantages advantages;
    for (size_t i = 0; i < all.size(); ++i) {
      advantages.text.push_back(0.5 * static_cast<double>(i % 4) - 0.75);
      advantages.keep.push_back(true);
      advantages.rewards.emplace_back(advantages.text.back());
    }
    advantages.image = advantages.text;
    optim::AdamW optimizer(optim_config, trained);
    optim::GradClip clip(optim_config);
    return update({.policy = *model,
                   .reference = reference.get(),
                   .optimizer = optimizer,
                   .clip = clip,
                   .config = config,
                   .rollout = rollout_config},
                  all, advantages, 1.0)
        .value();
  }
  std::map<std::string, at::Tensor> weights() const {
    std::map<std::string, at::Tensor> copies;
    for (const NamedTensor& p : model->parameters()) copies[p.name] = p.tensor.detach().clone();
    return copies;
  }
  /// How many parameters of each half have changed.
  std::map<std::string, int> changed(const std::map<std::string, at::Tensor>& before) const {
    std::map<std::string, int> count;
    for (const NamedTensor& p : model->parameters()) {
      if (!at::equal(p.tensor, before.at(p.name))) ++count[p.name.substr(0, p.name.find('.'))];
    }
    return count;
  }

  const testing::PairFolder folder;
  std::unique_ptr<policy::Paired> model, reference;
  const std::vector<data::Prompt> list = testing::prompts({"a red circle", "two squares beside a star", "a star"});
  rollout::RolloutConfig rollout_config = testing::tiny_rollout();
  GrpoConfig config;
  optim::OptimConfig optim_config;
};

class PairedLoraUpdate : public PairedUpdate {
 protected:
  PairedLoraUpdate() : PairedUpdate(policy::TrainMode::lora) {}
};

TEST_F(PairedUpdate, StepsStartAtRatioOneAndChangeBothHalves) {
  const auto before = weights();
  for (uint64_t step = 1; step <= 3; ++step) {
    const UpdateStats stats = train(roll(step));
    EXPECT_LT(stats.at("text/log_prob_diff"), kSame);
    EXPECT_LT(stats.at("image/log_prob_diff"), kSame);
    EXPECT_NEAR(stats.at("image/ratio"), 1, kSame);
    if (step == 1) {
      EXPECT_NEAR(stats.at("text/kl"), 0, 1e-9);
      EXPECT_NEAR(stats.at("image/velocity_mse"), 0, 1e-9);
    } else {
      EXPECT_GT(stats.at("text/kl"), 1e-7);
      EXPECT_GT(stats.at("image/velocity_mse"), 1e-7);
    }
  }
  const auto moved = changed(before);
  EXPECT_EQ(moved.at("text"), 3 + 2 * 12);
  EXPECT_GT(moved.at("image"), 50);
}

TEST_F(PairedUpdate, AWeightOfZeroTrainsOneHalfAlone) {
  for (const bool text : {true, false}) {
    config.text.weight = text ? 1 : 0;
    config.image.weight = text ? 0 : 1;
    const auto before = weights();
    train(roll());
    const auto moved = changed(before);
    ASSERT_EQ(moved.size(), 1U);
    EXPECT_EQ(moved.begin()->first, text ? "text" : "image");
  }
}

TEST_F(PairedLoraUpdate, TheReferenceIsThePairWithoutItsAdapters) {
  testing::randomize_adapters(*model);
  const auto before = weights();
  const UpdateStats stats = train(roll());
  EXPECT_LT(stats.at("text/log_prob_diff"), kSame);
  EXPECT_LT(stats.at("image/log_prob_diff"), kSame);
  EXPECT_GT(stats.at("text/kl"), 1e-6);
  EXPECT_GT(stats.at("image/velocity_mse"), 1e-6);
  for (const NamedTensor& p : model->parameters()) {
    const bool adapter = p.name.find(".lora_") != std::string::npos;
    // Of text in the last layer that draws only keys and values are seen by an image.
    const bool unseen = p.name.starts_with("image.language_model.model.layers.2.") &&
                        p.name.find("_moe_gen") == std::string::npos && p.name.find("k_proj") == std::string::npos &&
                        p.name.find("v_proj") == std::string::npos;
    EXPECT_EQ(at::equal(p.tensor, before.at(p.name)), !adapter || unseen) << p.name;
  }
}

TEST_F(PairedUpdate, AnUpdateUnderOtherConditionsStopsAndNamesTheField) {
  auto complaint = [&](const std::function<void(Trajectory&)>& mutate) {
    auto all = roll();
    mutate(all[1]);
    return testing::message_of<RuntimeFailure>([&] { train(all); });
  };
  const std::string sample = "sample 0/1, segment ";
  EXPECT_EQ(complaint([](Trajectory& t) { t.texts[0].ids.front() += 1; }),
            sample + "0: the update's token_ids is not the rollout's; nothing was trained on it");
  EXPECT_EQ(complaint([](Trajectory& t) { t.flows[0].stream().latents.add_(1e-3); }),
            sample + "1: the update's actions is not the rollout's; nothing was trained on it");
}

/// What a pair says of a fixed batch, both halves in one row.
at::Tensor outputs(policy::UnifiedPolicy& model) {
  const at::NoGradGuard no_grad;
  policy::TrainBatch batch{.prefixes = {{policy::TextBlock{policy::block_ids(model, "a red circle")}}},
                           .sequences = {{}}};
  batch.sequences[0].blocks = {
      policy::TextBlock{policy::block_ids(model, "think")},
      policy::NoisyBlock{tensor::normal({2, 16, 64}, {.seed = 3}), at::tensor({0.8f, 0.2f}), {4, 4}}};
  const policy::TrainOutput out = model.forward_train(batch);
  return at::cat({model.logits(out.text_hidden).flatten(), out.velocity.flatten()});
}

void expect_the_export_says_the_same(policy::Paired& model, const testing::PairFolder& source) {
  const testing::TempFolder temp;
  const auto out = temp.path() / "pair";
  checkpoint::export_model(source.path(), out, model.merged(), {.generation_config = "{\"num_steps\": 7}\n"});
  EXPECT_EQ(io::read_text_file(out / "config.json"), io::read_text_file(source.path() / "config.json"));
  EXPECT_EQ(io::read_text_file(out / "generation_config.json"), "{\"num_steps\": 7}\n");
  for (const char* file : {"text/model.safetensors", "text/config.json", "text/vocab.json", "image/ema.safetensors",
                           "image/ae.safetensors", "image/llm_config.json", "image/vocab.json"}) {
    EXPECT_TRUE(std::filesystem::is_regular_file(out / file)) << file;
  }
  EXPECT_EQ(io::read_text_file(out / "text/generation_config.json"),
            io::read_text_file(source.path() / "text/generation_config.json"));
  policy::PolicyConfig config;
  config.model = out.string();
  const auto again = policy::load(config, {.seed = 9});
  const at::Tensor want = outputs(model);
  EXPECT_TRUE(close(outputs(*again), want, kSame * want.abs().max().item<double>()));
  // Each half is a model folder of its own.
  config.model = (out / "text").string();
  EXPECT_EQ(policy::load(config, {})->parameters().size(), 3U + 2 * 12);
}

TEST_F(PairedUpdate, WhatIsExportedSaysTheSame) {
  const at::Tensor before = outputs(*model);
  train(roll());
  EXPECT_FALSE(close(outputs(*model), before, 1e-4));
  expect_the_export_says_the_same(*model, folder);
}

TEST_F(PairedLoraUpdate, WhatIsExportedHasTheAdaptersMerged) {
  testing::randomize_adapters(*model);
  train(roll());
  expect_the_export_says_the_same(*model, folder);
}

TEST_F(PairedUpdate, AWeightThatNoHalfHasIsNotExported) {
  const testing::TempFolder temp;
  const auto said = [&](const std::string& name) {
    return testing::message_of<BadInput>(
        [&] { checkpoint::export_model(folder.path(), temp.path() / "out", {{name, at::ones({2})}}); });
  };
  EXPECT_EQ(said("vae2llm.bias"), folder.path().string() + ": has no tensor 'vae2llm.bias', which was to be exported");
  EXPECT_EQ(said("text.vae2llm.bias"), (folder.path() / "text/model.safetensors").string() +
                                           ": has no tensor 'vae2llm.bias', which was to be exported");
  EXPECT_TRUE(std::filesystem::is_empty(temp.path()));
}

}  // namespace
}  // namespace unigrpo::grpo
