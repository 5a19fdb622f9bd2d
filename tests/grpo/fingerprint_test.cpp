// What was sampled is what is trained: an update under another fingerprint than the rollout's stops and names the
// field.
#include "rollout/fingerprint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "grpo/update.h"
#include "io/image_codec.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_rollout.h"

namespace unigrpo::grpo {
namespace {

using data::SegmentKind;
using policy::Block;
using rollout::FlowSegment;
using rollout::TextSegment;
using rollout::Trajectory;
using testing::kImage;
using testing::kText;

class FingerprintTest : public ::testing::Test {
 protected:
  FingerprintTest() {
    testing::make_texts_end(*model);
    testing::randomize_adapters(*model);
    Image image{.width = 80, .height = 64, .pixels = {}};
    for (int i = 0; i < 80 * 64 * 3; ++i) image.pixels.push_back(static_cast<uint8_t>((i * i + 7 * i) % 251));
    const std::string path = (folder.path() / "image.png").string();
    io::write_png(path, image);
    list = testing::prompts({"make the square green", "a star"});
    for (data::Prompt& prompt : list) prompt.images = {path};
    config.episode = {kText, kImage, kText, kImage};
    optim_config.lr = 0;
  }

  std::vector<Trajectory> roll(uint64_t seed = 21) {
    rollout::RolloutRequest request = testing::request(list, 2);
    request.guidance.text_scale = config.rollout_cfg_scale;
    return rollout::RolloutEngine(*model, config, {.seed = seed}, "draw it").rollout(request);
  }
  UpdateStats train(const std::vector<Trajectory>& all, bool only_check = false) {
    Advantages advantages;
    for (size_t i = 0; i < all.size(); ++i) {
      advantages.text.push_back(i % 2 == 0 ? 1 : -1);
      advantages.keep.push_back(true);
      advantages.rewards.emplace_back(advantages.text.back());
    }
    advantages.image = advantages.text;
    NamedTensors trained;
    for (const NamedTensor& p : model->parameters()) {
      if (p.tensor.requires_grad()) trained.push_back(p);
    }
    optim::AdamW optimizer(optim_config, trained);
    optim::GradClip clip(optim_config);
    const UpdateSetup setup = {.policy = *model,
                               .reference = nullptr,
                               .optimizer = optimizer,
                               .clip = clip,
                               .config = grpo_config,
                               .rollout = config};
    // The same check without a step, which would make the weights others than the rollout's.
    if (only_check) measure_log_prob_noise(setup, all);
    return only_check ? UpdateStats{} : update(setup, all, advantages, 1.0).value();
  }
  /// What the update says of these trajectories; empty where it trains on them.
  std::string complaint(const std::vector<Trajectory>& all) {
    try {
      train(all, true);
    } catch (const RuntimeFailure& failure) {
      return failure.what();
    }
    return {};
  }

  testing::TempFolder folder;
  std::unique_ptr<policy::Bagel> model = testing::tiny_bagel(policy::TrainMode::lora);
  std::vector<data::Prompt> list;
  rollout::RolloutConfig config = testing::tiny_rollout();
  GrpoConfig grpo_config;
  optim::OptimConfig optim_config;
};

TEST_F(FingerprintTest, SoHaveThoseWithGuidanceWhoseOtherContextHoldsSystemPromptAndImages) {
  config.rollout_cfg_scale = 2;
  for (const auto& [name, value] : train(roll())) {
    if (!name.ends_with("log_prob_diff")) continue;
    EXPECT_LT(value, 1e-5) << name;
  }
}

TEST_F(FingerprintTest, HonestRunsHaveRatioOneInEveryTurn) {
  for (const std::vector<SegmentKind>& episode : std::vector<std::vector<SegmentKind>>{
           {kText, kImage, kText, kImage}, {kImage, kText, kImage}, {kImage}, {kText}, {kText, kText, kImage}}) {
    for (const uint64_t seed : {1, 2, 3}) {
      config.episode = episode;
      const UpdateStats stats = train(roll(seed));
      int compared = 0;
      for (const auto& [name, value] : stats) {
        if (!name.ends_with("log_prob_diff")) continue;
        EXPECT_LT(value, 1e-5) << name << ", seed " << seed << ", " << episode.size() << " segments";
        ++compared;
      }
      EXPECT_EQ(compared, static_cast<int>(episode.size())) << seed;
    }
  }
}

TEST_F(FingerprintTest, TurnsHaveNumbersOfTheirOwn) {
  const UpdateStats stats = train(roll());
  for (const char* name : {"text/loss", "image/loss", "image/velocity_mse", "text/clip_fraction", "image/ratio"}) {
    EXPECT_TRUE(stats.contains(name)) << name;
    EXPECT_TRUE(stats.contains(std::string("turn_1/") + name)) << name;
  }
  EXPECT_FALSE(stats.contains("turn_2/text/loss"));
  EXPECT_NEAR(stats.at("turn_1/image/ratio"), 1, 1e-5);
}

TextSegment& text(Trajectory& t, size_t turn) { return t.texts.at(turn); }
FlowSegment& image(Trajectory& t, size_t turn) { return t.flows.at(turn); }
at::Tensor& latents(Block& block) { return std::get<policy::LatentBlock>(block).latents; }
at::Tensor& pixels(Block& block) { return std::get<policy::VisionBlock>(block).pixels; }

/// The prefix: [system] [image as latents] [as vision tokens] [prompt].
std::vector<int64_t>& prompt_ids(Trajectory& t) { return std::get<policy::TextBlock>(t.prefix.at(3)).ids; }

TEST_F(FingerprintTest, EveryMutationIsNamed) {
  struct Mutation {
    const char* what;
    const char* field;
    std::function<void(Trajectory&)> apply;
  };
  auto drop = [](at::Tensor& values) { values = values.narrow(0, 0, values.size(0) - 1); };
  const std::vector<Mutation> mutations = {
      {"a prompt token dropped", "token_ids", [](Trajectory& t) { prompt_ids(t).erase(prompt_ids(t).begin() + 1); }},
      {"a prompt token changed", "token_ids", [](Trajectory& t) { prompt_ids(t)[1] += 1; }},
      {"two prompt tokens swapped", "token_ids", [](Trajectory& t) { std::swap(prompt_ids(t)[1], prompt_ids(t)[2]); }},
      {"a token twice", "token_ids",
       [](Trajectory& t) { prompt_ids(t).insert(prompt_ids(t).begin(), prompt_ids(t)[0]); }},
      {"the system prompt gone", "token_ids", [](Trajectory& t) { t.prefix.erase(t.prefix.begin()); }},
      {"system prompt and prompt swapped", "token_ids", [](Trajectory& t) { std::swap(t.prefix[0], t.prefix[3]); }},
      {"the image's VAE tokens gone", "position_ids", [](Trajectory& t) { t.prefix.erase(t.prefix.begin() + 1); }},
      {"the image's vision tokens gone", "position_ids", [](Trajectory& t) { t.prefix.erase(t.prefix.begin() + 2); }},
      {"vision before VAE tokens", "position_ids", [](Trajectory& t) { std::swap(t.prefix[1], t.prefix[2]); }},
      {"the image behind the prompt", "position_ids",
       [](Trajectory& t) { std::rotate(t.prefix.begin() + 1, t.prefix.begin() + 2, t.prefix.end()); }},
      {"the image twice", "position_ids", [](Trajectory& t) { t.prefix.insert(t.prefix.begin() + 1, t.prefix[1]); }},
      {"one latent a little off", "latents",
       [](Trajectory& t) {
         latents(t.prefix[1]) = latents(t.prefix[1]).clone();
         latents(t.prefix[1])[0][0] += 1e-6;
       }},
      {"a fresh posterior sample", "latents",
       [](Trajectory& t) {
         latents(t.prefix[1]) = latents(t.prefix[1]) + 0.1 * tensor::normal(latents(t.prefix[1]).sizes(), {.seed = 3});
       }},
      {"another patch order of the latents", "latents",
       [](Trajectory& t) { latents(t.prefix[1]) = latents(t.prefix[1]).flip(0); }},
      {"one byte of the image", "pixels",
       [](Trajectory& t) {
         pixels(t.prefix[2]) = pixels(t.prefix[2]).clone();
         pixels(t.prefix[2])[0][5][7] += 1 / 127.5;
       }},
      {"another resize", "pixels",
       [](Trajectory& t) {
         const at::Tensor whole = pixels(t.prefix[2]);
         const auto h = whole.size(1), w = whole.size(2);
         pixels(t.prefix[2]) =
             at::upsample_bilinear2d(at::upsample_bilinear2d(whole.unsqueeze(0), {h / 2, w / 2}, false), {h, w}, false)
                 .squeeze(0);
       }},
      {"channels the other way round", "pixels",
       [](Trajectory& t) { pixels(t.prefix[2]) = pixels(t.prefix[2]).flip(0); }},
      {"the patch grid turned", "pixels",
       [](Trajectory& t) {
         auto& grid = std::get<policy::VisionBlock>(t.prefix[2]).grid;
         std::swap(grid.height, grid.width);
         pixels(t.prefix[2]) = pixels(t.prefix[2]).transpose(1, 2);
       }},
      {"a sampled token dropped", "token_ids",
       [&](Trajectory& t) {
         text(t, 0).ids.pop_back();
         drop(text(t, 0).log_probs);
         drop(text(t, 0).entropy);
       }},
      {"a sampled token changed", "token_ids", [](Trajectory& t) { text(t, 0).ids[0] += 1; }},
      {"a truncated text taken for a finished one", "token_ids",
       [](Trajectory& t) { text(t, 0).finished = !text(t, 0).finished; }},
      {"a token of the second text", "token_ids", [](Trajectory& t) { text(t, 1).ids[0] += 1; }},
      {"the window one step later", "time_grid",
       [](Trajectory& t) {
         const int64_t by = image(t, 0).window.last < 4 ? 1 : -1;
         image(t, 0).window.first += by;
         image(t, 0).window.last += by;
       }},
      {"the time grid off by one", "time_grid",
       [](Trajectory& t) {
         auto& times = image(t, 1).timesteps;
         std::rotate(times.begin(), times.begin() + 1, times.end());
       }},
      {"another shift of the grid", "time_grid",
       [](Trajectory& t) { image(t, 0).timesteps = flow::time_grid(4, 3.0); }},
      {"stored states in another order", "actions",
       [](Trajectory& t) { image(t, 0).stream().latents = image(t, 0).stream().latents.flip(0); }},
      {"a stored state a little off", "actions",
       [](Trajectory& t) { image(t, 1).stream().latents = image(t, 1).stream().latents + 1e-6; }},
      {"the first image not looked at", "position_ids", [](Trajectory& t) { image(t, 0).context.clear(); }},
      {"the first image without vision tokens", "position_ids", [](Trajectory& t) { image(t, 0).context.pop_back(); }},
      {"another first image", "latents",
       [](Trajectory& t) { latents(image(t, 0).context[0]) = latents(image(t, 0).context[0]) * 0.5; }},
  };
  EXPECT_EQ(mutations.size(), 30U);
  const std::vector<Trajectory> honest = roll();
  EXPECT_EQ(complaint(honest), "");
  for (const Mutation& mutation : mutations) {
    std::vector<Trajectory> all = honest;
    for (Trajectory& t : all) mutation.apply(t);  // of the whole batch: a group shares its prefix
    const std::string said = complaint(all);
    EXPECT_NE(said.find(std::string("the update's ") + mutation.field + " is not the rollout's"), std::string::npos)
        << mutation.what << ": " << (said.empty() ? "trained" : said);
  }
  EXPECT_THROW(
      {
        std::vector<Trajectory> all = honest;
        for (Trajectory& t : all) mutations.front().apply(t);
        train(all);
      },
      RuntimeFailure);
  train(honest);
  EXPECT_NE(complaint(honest).find("weights_version"), std::string::npos);  // a second step on one rollout
}

TEST_F(FingerprintTest, SettingsAndWeightsThatChangedAreNamed) {
  const std::vector<Trajectory> honest = roll();
  const rollout::RolloutConfig before = config;
  auto expect = [&](const char* field) {
    EXPECT_NE(complaint(honest).find(std::string("the update's ") + field), std::string::npos) << field;
    config = before;
  };
  config.temperature = 0.9;
  expect("sampling");
  config.sde.noise_level += 0.1;
  expect("sampling");
  config.sde.kind = flow::SdeKind::dance;
  expect("sampling");
  model->enable_adapters(false);
  expect("adapter_state");
  model->enable_adapters(true);
  EXPECT_EQ(complaint(honest), "");
  {
    const at::NoGradGuard no_grad;
    for (NamedTensor& p : model->parameters()) {
      if (p.name.ends_with("lora_B.weight")) p.tensor.mul_(1.5);  // the rollout's adapters are stale
    }
  }
  expect("weights_version");
}

/// The digest of a text-only episode, worked out from its tokens alone.
policy::ContextDigest by_hand(const Trajectory& t, int64_t position, int64_t seen) {
  policy::ContextDigest digest;
  std::vector<int64_t> ids;
  for (const Block& block : t.prefix) {
    const auto& read = std::get<policy::TextBlock>(block).ids;
    ids.insert(ids.end(), read.begin(), read.end());
  }
  const TextSegment& text = t.texts[0];
  ids.push_back(401);  // bos and eos of tests/data/bagel_tiny
  ids.insert(ids.end(), text.ids.begin(), text.ids.end());
  if (!text.finished) ids.push_back(402);
  for (const int64_t id : ids) digest.add_token(id, position++, ++seen);
  return digest;
}

TEST_F(FingerprintTest, AShiftedPositionOrMaskIsNamed) {
  config.episode = {kText};
  for (data::Prompt& prompt : list) prompt.images.clear();
  std::vector<Trajectory> all = roll();
  for (const Trajectory& t : all) {
    EXPECT_EQ(t.texts[0].fingerprint.context, by_hand(t, 0, 0));
  }
  for (Trajectory& t : all) text(t, 0).fingerprint.context = by_hand(t, 1, 0);
  EXPECT_NE(complaint(all).find("position_ids"), std::string::npos);
  for (Trajectory& t : all) text(t, 0).fingerprint.context = by_hand(t, 0, 1);
  EXPECT_NE(complaint(all).find("mask"), std::string::npos);
}

}  // namespace
}  // namespace unigrpo::grpo
