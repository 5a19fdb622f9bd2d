#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "io/safetensors.h"
#include "nn/weights.h"
#include "policy/ltx2/latents.h"
#include "policy/ltx2/model.h"
#include "policy/ltx2/positions.h"
#include "policy/ltx2/text.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"
#include "support/tiny_ltx2.h"
#include "tensor/convert.h"

namespace unigrpo::policy::ltx2 {
namespace {

using testing::close;
using testing::kTinyClip;
using testing::TinyLtx2;

class Ltx2Layouts : public ::testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Both, Ltx2Layouts, ::testing::Values("v20", "v23"));

TEST_P(Ltx2Layouts, VelocitiesAreDiffusers) {
  const at::NoGradGuard no_grad;
  const TinyLtx2 tiny(GetParam());
  const auto places = tiny.model->transformer().positions(kTinyClip);
  for (const bool cross : {false, true}) {
    auto in = tiny.inputs({350, 120}, {700, 40});
    in.cross_timestep = cross;
    const auto out = tiny.model->transformer()(in, places);
    const std::string name = cross ? "velocity.own_sigma_cross." : "velocity.own_sigma.";
    EXPECT_TRUE(close(out.video, tiny.golden(name + "video"), 1e-4));  // the schema's
    EXPECT_TRUE(close(out.audio, tiny.golden(name + "audio"), 1e-4));
  }
}

TEST_P(Ltx2Layouts, ARowDependsOnThoseBesideItByRoundingAlone) {
  const at::NoGradGuard no_grad;
  const TinyLtx2 tiny(GetParam());
  const auto places = tiny.model->transformer().positions(kTinyClip);
  const auto both = tiny.model->transformer()(tiny.inputs({350, 120}, {700, 40}), places);
  auto one = tiny.inputs({120}, {40});
  for (at::Tensor* t : {&one.latents.video, &one.latents.audio, &one.text.video, &one.text.audio, &one.text_mask}) {
    *t = t->narrow(0, 1, 1);
  }
  const auto alone = tiny.model->transformer()(one, places);
  EXPECT_TRUE(close(alone.video, both.video.narrow(0, 1, 1), 1e-5));  // values of a few units, another order of sums
  EXPECT_TRUE(close(alone.audio, both.audio.narrow(0, 1, 1), 1e-5));
}

TEST_P(Ltx2Layouts, Bfloat16StaysNear) {
  const at::NoGradGuard no_grad;
  const TinyLtx2 tiny(GetParam(), {.dtype = at::kBFloat16, .tower_dtype = at::kBFloat16});
  auto in = tiny.inputs({350, 120}, {700, 40});
  in.text = {.video = in.text.video.to(at::kBFloat16), .audio = in.text.audio.to(at::kBFloat16)};
  const auto out = tiny.model->transformer()(in, tiny.model->transformer().positions(kTinyClip));
  EXPECT_EQ(out.video.scalar_type(), at::kBFloat16);
  const at::Tensor want = tiny.golden("velocity.own_sigma_cross.video");
  EXPECT_TRUE(close(out.video.to(at::kFloat), want, 0.05 * want.abs().max().item<double>()));  // 8 bits, 2 layers
  const at::Tensor decoded = tiny.model->vae().decode(tiny.golden("vae.decode_in").to(at::kBFloat16));
  EXPECT_TRUE(close(decoded.slice(3, 0, std::nullopt, 4).slice(4, 0, std::nullopt, 4).to(at::kFloat),
                    tiny.golden("vae.decode_out_stride4"), 0.2));
  const at::Tensor mel = tiny.model->audio_vae().decode(tiny.golden("audio.decode_in").to(at::kBFloat16));
  EXPECT_TRUE(tiny.model->vocoder()(mel).isfinite().all().item<bool>());
}

TEST(Ltx2, AStreamsGradientReachesTheOthersLayersUnlessTheyAreIsolated) {
  for (const bool isolated : {false, true}) {
    const TinyLtx2 tiny("v23");
    auto in = tiny.inputs({350, 120}, {700, 40});
    in.isolated = isolated;
    in.latents.audio.requires_grad_();
    const auto out = tiny.model->transformer()(in, tiny.model->transformer().positions(kTinyClip));
    if (isolated) {
      EXPECT_FALSE(out.video.requires_grad());
    } else {
      out.video.square().mean().backward();
      EXPECT_GT(in.latents.audio.grad().abs().max().item<double>(), 0);
    }
  }
}

TEST(Ltx2, PerturbedBlocksNeedTheirSetting) {
  const TinyLtx2 tiny("v20");
  auto in = tiny.inputs({350, 120}, {700, 40});
  in.perturbed_blocks = {1};
  EXPECT_EQ(testing::message_of<std::invalid_argument>(
                [&] { tiny.model->transformer()(in, tiny.model->transformer().positions(kTinyClip)); }),
            "perturbed blocks need a model with perturbed_attn");
}

TEST(Ltx2, KeyframesAreMarkedByTheirEmbedding) {
  const at::NoGradGuard no_grad;
  const TinyLtx2 tiny("v25");
  const ClipGrid grid{.frames = 2, .height = 3, .width = 2, .audio_frames = 7, .fps = 16.0};
  const auto places = tiny.model->transformer().positions(grid);
  auto in = tiny.inputs({350, 120}, {350, 120});
  const auto plain = tiny.model->transformer()(in, places);
  in.keyframes = at::zeros({2, 12});
  EXPECT_TRUE(at::equal(tiny.model->transformer()(in, places).video, plain.video));
  in.keyframes.narrow(1, 0, 6).fill_(1);
  EXPECT_GT((tiny.model->transformer()(in, places).video - plain.video).abs().max().item<double>(), 1e-3);
}

TEST(Ltx2Positions, AreSecondsInBothStreams) {
  // The first video latent is one frame long, the others eight; an audio latent is 40 ms, the first 10.
  const at::Tensor video = video_coords({.frames = 3, .height = 1, .width = 2, .fps = 24.0}, {});
  EXPECT_TRUE(close(video[0][0].select(0, 0), at::tensor({0.0, 1 / 24.0}, at::kFloat), 1e-7));
  EXPECT_TRUE(close(video[0][0].select(0, 4), at::tensor({9 / 24.0, 17 / 24.0}, at::kFloat), 1e-7));
  EXPECT_TRUE(close(video[0][2].select(0, 1), at::tensor({32.0, 64.0}, at::kFloat), 0));
  const at::Tensor audio = audio_coords(3, {});
  EXPECT_TRUE(close(audio[0][0], at::tensor({0.0, 0.01, 0.01, 0.05, 0.05, 0.09}, at::kFloat).view({3, 2}), 1e-7));
}

TEST(Ltx2Positions, WhatIsLeftOverStandsInFrontAndDoesNotTurn) {
  // dim 10 over 3 axes: one frequency an axis, 2 pairs left over.
  const at::Tensor coords = video_coords({.frames = 1, .height = 2, .width = 1}, {});
  const Angles angles = angles_of(coords, {20, 2048, 2048}, {.dim = 10, .theta = 10.0});
  EXPECT_EQ(angles.cos.sizes(), at::IntArrayRef({2, 5}));
  EXPECT_TRUE(close(angles.cos.narrow(1, 0, 2), at::ones({2, 2}), 0));
  EXPECT_TRUE(close(angles.sin.narrow(1, 0, 2), at::zeros({2, 2}), 0));
}

TEST(Ltx2Positions, BothKindsOfPairsKeepLengths) {
  const at::Tensor x = at::randn({2, 6, 24});
  const at::Tensor coords = video_coords({.frames = 1, .height = 3, .width = 2}, {});
  for (const bool split : {true, false}) {
    const Angles angles = angles_of(coords, {20, 64, 64}, {.dim = 24, .heads = 3, .split = split, .theta = 10.0});
    const at::Tensor y = Rotation(angles, 2, at::kCPU)(x);
    EXPECT_TRUE(close(y.square().sum(-1), x.square().sum(-1), 1e-4));
    const at::Tensor pairs_x = split ? x.view({2, 6, 3, 2, 4}).transpose(3, 4) : x.view({2, 6, 12, 2});
    const at::Tensor pairs_y = split ? y.view({2, 6, 3, 2, 4}).transpose(3, 4) : y.view({2, 6, 12, 2});
    EXPECT_TRUE(close(pairs_y.square().sum(-1), pairs_x.square().sum(-1), 1e-5));
    // The first pair of the first token turns by its own angle.
    const double c = angles.cos[0][0].item<double>(), s = angles.sin[0][0].item<double>();
    const double a = x[0][0][0].item<double>(), b = x[0][0][split ? 4 : 1].item<double>();
    EXPECT_NEAR(y[0][0][0].item<double>(), a * c - b * s, 1e-5);
  }
}

TEST(Ltx2Latents, ComeBack) {
  const at::Tensor video = at::randn({2, 3, 2, 4, 5}), audio = at::randn({2, 3, 6, 4});
  EXPECT_TRUE(at::equal(unpack_video(pack_video(video), 2, 4, 5), video));
  EXPECT_TRUE(at::equal(unpack_audio(pack_audio(audio), 4), audio));
}

class Ltx2Text : public ::testing::Test {
 protected:
  static void write(const std::filesystem::path& file, const std::map<std::string, at::Tensor>& tensors) {
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back(tensor::to_view(tensor, name));
    io::write_safetensors(file, views);
  }
  testing::TempFolder folder_;
};

TEST_F(Ltx2Text, FeaturesComeFromAFileByPrompt) {
  const ConnectorsConfig connectors{.caption_channels = 4, .num_text_layers = 3};
  const at::Tensor red = at::randn({5, 4, 3}), blue = at::randn({2, 12});
  const auto file = folder_.path() / "features.safetensors";
  write(file, {{"a red ball", red}, {"blue", blue}});
  const auto source = open_text_features(file, connectors);
  EXPECT_TRUE(at::equal(source->states("a red ball"), red));
  EXPECT_TRUE(at::equal(source->states("blue"), blue.view({2, 4, 3})));
  EXPECT_EQ(testing::message_of<BadInput>([&] { source->states("green"); }),
            file.string() + ": has no features of the prompt 'green'");

  const std::vector<at::Tensor> states = {red, blue.view({2, 4, 3})};
  const TextStates padded = padded_left(states, 0, 4);
  EXPECT_EQ(padded.hidden.sizes(), at::IntArrayRef({2, 8, 4, 3}));
  EXPECT_TRUE(at::equal(padded.hidden[1].narrow(0, 6, 2), states[1]));
  EXPECT_TRUE(at::equal(padded.mask.sum(1), at::tensor({5, 2}, at::kLong)));
  EXPECT_EQ(padded.mask[1][5].item<int64_t>(), 0);
  EXPECT_EQ(testing::message_of<BadInput>([&] { padded_left(states, 4, 4); }),
            "a prompt has 5 text features, at most 4 fit");

  write(file, {{"odd", at::randn({5, 7})}});
  EXPECT_EQ(testing::message_of<BadInput>([&] { open_text_features(file, connectors); }),
            file.string() + ": tensor 'odd' has shape [5, 7], the connectors need [*, 4, 3]");
}

TEST_F(Ltx2Text, TheFoldersOwnEncoderReadsTokensInTheirOrder) {
  const ConnectorsConfig connectors{.caption_channels = 8, .num_text_layers = 1};
  const std::filesystem::path tiny = UNIGRPO_TEST_DATA "/bagel_tiny";
  for (const char* name : {"vocab.json", "merges.txt", "tokenizer_config.json", "added_tokens.json"}) {
    std::filesystem::copy_file(tiny / name, folder_.path() / name);
  }
  folder_.write("config.json", R"({"_class_name": "UniGRPOTextEncoder", "vocab_size": 408, "max_length": 16,
                                   "hidden_size": 8, "num_layers": 2, "num_heads": 2})");
  std::map<std::string, at::Tensor> weights = {{"embed_tokens.weight", at::randn({408, 8})},
                                               {"embed_positions.weight", at::randn({16, 8})},
                                               {"final_layer_norm.weight", at::ones({8})},
                                               {"final_layer_norm.bias", at::zeros({8})}};
  nn::Weights initial("new", [&](const std::string& name, const std::vector<int64_t>& shape) {
    return weights.emplace(name, at::randn(shape) * 0.3).first->second;
  });
  nn::Encoder({.hidden_size = 8, .intermediate_size = 32, .num_layers = 2, .num_heads = 2}, "encoder", initial);
  write(folder_.path() / "model.safetensors", weights);
  const auto source = open_text_encoder(folder_.path(), connectors);
  const at::Tensor ab = source->states("a b"), ba = source->states("b a");
  EXPECT_EQ(ab.size(1), 8);
  EXPECT_EQ(ab.size(2), 1);
  EXPECT_TRUE(at::equal(ab, source->states("a b")));
  EXPECT_FALSE(at::equal(ab, ba));
  const std::string message = testing::message_of<BadInput>([&] { source->states(std::string(200, 'x') + " y z"); });
  EXPECT_NE(message.find("must have 1 to 16"), std::string::npos) << message;
  EXPECT_EQ(testing::message_of<BadInput>([&] { open_text_encoder(folder_.path(), {}); }),
            (folder_.path() / "config.json").string() + ": 'hidden_size' gives [8, 1], the connectors need [3840, 49]");
}

TEST_F(Ltx2Text, AnyTextPolicyMayReadThePrompt) {
  const auto policy = testing::tiny_bagel();
  const int64_t width = policy->config().llm.hidden_size;
  const auto source = policy_text(*policy, {.caption_channels = width, .num_text_layers = 1});
  const at::Tensor states = source->states("a red circle");
  EXPECT_EQ(states.sizes(),
            at::IntArrayRef({static_cast<int64_t>(block_ids(*policy, "a red circle").size()), width, 1}));
  EXPECT_FALSE(states.requires_grad());
  EXPECT_THROW(policy_text(*policy, {})->states("a red circle"), BadInput);
}

}  // namespace
}  // namespace unigrpo::policy::ltx2
