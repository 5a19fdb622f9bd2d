#include "scorers/scorer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "base/error.h"
#include "scorers/tiny_clip.h"
#include "support/tensors.h"

namespace unigrpo::scorers {
namespace {

using testing::message_of;
using Tensors = std::map<std::string, at::Tensor>;

constexpr double kParity = 1e-5;  // of a cosine
constexpr size_t kPrompts = 5;

/// Every golden image under every golden prompt, prompts changing fastest.
std::vector<data::Sample> all_pairs(const Golden& golden) {
  std::vector<data::Sample> samples;
  for (const Image& image : golden.images) {
    for (size_t j = 0; j < kPrompts; ++j) samples.push_back(sample_of(golden.text(j), image));
  }
  return samples;
}

/// Cosines of all_pairs: transformers' logits without their scale.
at::Tensor golden_cosines(const Golden& golden) {
  return (golden.tensor("logits_per_image") / std::exp(3.0)).flatten().to(at::kDouble);
}

std::string refusal(ScorerKind kind, const ClipCopy& copy) {
  return message_of<BadInput>([&] { make_scorer(kind, copy.path()); });
}

class Scorers : public ::testing::TestWithParam<const char*> {
 protected:
  const std::filesystem::path folder = kData / GetParam();
  const Golden golden{GetParam()};
  const std::vector<data::Sample> samples = all_pairs(golden);
  const at::Tensor cosines = golden_cosines(golden);

  std::vector<reward::Score> scores(ScorerKind kind, int64_t batch_size = 32) const {
    return make_scorer(kind, folder, {.batch_size = batch_size})->score(samples);
  }
  double cosine(size_t n) const { return cosines[static_cast<int64_t>(n)].item<double>(); }
};

TEST_P(Scorers, ClipScoreIsAHundredTimesTheCosineCutOffAtZero) {
  const auto found = scores(ScorerKind::clip_score);
  ASSERT_EQ(found.size(), samples.size());
  size_t below = 0;
  for (size_t n = 0; n < found.size(); ++n) {
    EXPECT_NEAR(found[n].value.value(), 100 * std::max(cosine(n), 0.0), 100 * kParity);
    EXPECT_NEAR(found[n].parts.at("cosine"), cosine(n), kParity);
    below += cosine(n) < 0 ? 1 : 0;
  }
  EXPECT_GT(below, 0u);  // else nothing was cut off
}

TEST_P(Scorers, PickScoreIsScaledByTheModelAndNormalizedByTwentySix) {
  const auto found = scores(ScorerKind::pick_score, 4);
  for (size_t n = 0; n < found.size(); ++n) {
    EXPECT_NEAR(found[n].value.value(), std::exp(3.0) * cosine(n), std::exp(3.0) * kParity);
    EXPECT_NEAR(found[n].parts.at("normalized"), std::exp(3.0) * cosine(n) / 26, kParity);
    EXPECT_NEAR(found[n].parts.at("cosine"), cosine(n), kParity);
  }
}

TEST_P(Scorers, HpsIsTheCosine) {
  const auto found = scores(ScorerKind::hps, 1);
  for (size_t n = 0; n < found.size(); ++n) EXPECT_NEAR(found[n].value.value(), cosine(n), kParity);
}

TEST_P(Scorers, AestheticIsTheHeadOnTheImageAlone) {  // the MLP in one folder, the linear head in the other
  const auto found = scores(ScorerKind::aesthetic, 7);
  const at::Tensor want = golden.tensor("aesthetic");
  for (size_t n = 0; n < found.size(); ++n) {
    const double value = want[static_cast<int64_t>(n / kPrompts)].item<double>();
    EXPECT_NEAR(found[n].value.value(), value, 1e-4);  // values reach 65
  }
}

TEST_P(Scorers, APromptThatWasCutIsNoted) {
  const auto found = scores(ScorerKind::clip_score);
  EXPECT_TRUE(found[0].notes.empty() || std::string(GetParam()) != "clip_tiny");
  EXPECT_EQ(found[4].notes.at("prompt"),
            std::string("truncated to ") + (std::string(GetParam()) == "clip_tiny" ? "77" : "20") + " tokens");
}

INSTANTIATE_TEST_SUITE_P(Tiny, Scorers, ::testing::ValuesIn(kFolders),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST(Scorer, WhatCannotBeJudgedHasAReasonAndOthersKeepTheirScore) {
  const Golden golden("clip_tiny");
  const std::vector<data::Sample> samples = {data::Sample(), sample_of("a\xFF", golden.images[0]),
                                             sample_of(golden.text(0), golden.images[0])};
  const auto found = make_scorer(ScorerKind::hps, kData / "clip_tiny")->score(samples);
  EXPECT_FALSE(found[0].value);
  EXPECT_EQ(found[0].reason, "no image");
  EXPECT_FALSE(found[1].value);
  EXPECT_EQ(found[1].reason, "text to encode is not valid UTF-8: 'a\\xff'");
  EXPECT_NEAR(found[2].value.value(), golden_cosines(golden)[0].item<double>(), kParity);

  const auto aesthetic = make_scorer(ScorerKind::aesthetic, kData / "clip_tiny")->score(samples);
  EXPECT_EQ(aesthetic[0].reason, "no image");
  EXPECT_TRUE(aesthetic[1].value);  // reads no prompt
}

TEST(Scorer, NothingToJudgeIsNoError) {
  for (const ScorerKind kind : {ScorerKind::clip_score, ScorerKind::aesthetic}) {
    const auto scorer = make_scorer(kind, kData / "clip_tiny");
    EXPECT_TRUE(scorer->score({}).empty());
    const std::vector<data::Sample> unreadable = {sample_of("\xFF", Image{})};
    EXPECT_FALSE(scorer->score(unreadable)[0].value);
    EXPECT_EQ(scorer->missing_metadata("{}"), "");
  }
}

TEST(Scorer, RefusesAFolderWhosePartsDoNotFit) {
  const ClipCopy small;
  small.change_json("config.json", [](nlohmann::json& root) { root["text_config"]["vocab_size"] = 600; });
  small.change_weights("model.safetensors", [](Tensors& tensors) {
    at::Tensor& tokens = tensors.at("text_model.embeddings.token_embedding.weight");
    tokens = tokens.narrow(0, 0, 600).contiguous();
  });
  EXPECT_NE(refusal(ScorerKind::hps, small).find("the tokenizer has 618 ids, the config says vocab_size 600"),
            std::string::npos);

  const ClipCopy other_end;
  other_end.change_json("config.json", [](nlohmann::json& root) { root["text_config"]["eos_token_id"] = 600; });
  EXPECT_NE(refusal(ScorerKind::hps, other_end)
                .find("the tokenizer ends texts with id 617, the config says eos_token_id 600"),
            std::string::npos);

  EXPECT_EQ(message_of<BadInput>([] { make_scorer(ScorerKind::hps, kData / "clip_tiny", {.batch_size = 0}); }),
            "a scorer's batch_size must be at least 1, got 0");
}

TEST(Aesthetic, NeedsNoTextTowerAndNoTokenizer) {
  const ClipCopy copy;
  std::filesystem::remove(copy.path() / "vocab.json");
  copy.change_weights("model.safetensors", [](Tensors& tensors) {
    std::erase_if(tensors, [](const auto& entry) { return entry.first.starts_with("text_"); });
  });
  EXPECT_NE(make_scorer(ScorerKind::aesthetic, copy.path()), nullptr);
}

TEST(Aesthetic, NamesFileAndTensorOfAHeadThatDoesNotFit) {
  const ClipCopy none;
  std::filesystem::remove(none.path() / "aesthetic.safetensors");
  EXPECT_NE(refusal(ScorerKind::aesthetic, none).find("aesthetic.safetensors"), std::string::npos);

  const auto refused = [](const std::function<void(Tensors&)>& change) {
    const ClipCopy copy;
    copy.change_weights("aesthetic.safetensors", change);
    return refusal(ScorerKind::aesthetic, copy);
  };
  const auto holds = [](const std::string& message, const char* expected) {
    EXPECT_NE(message.find(expected), std::string::npos) << message;
  };
  holds(refused([](Tensors& t) { t = {{"head", at::zeros({1})}}; }), "neither 'weight' nor 'layers.N.weight'");
  holds(refused([](Tensors& t) { t.erase("layers.7.bias"); }), "1 tensor(s) missing: layers.7.bias");
  holds(refused([](Tensors& t) { t["layers.x.weight"] = at::zeros({1}); }), "does not ask for: layers.x.weight");
  holds(refused([](Tensors& t) { t["layers.0.weight"] = at::zeros({16, 23}); }),
        "tensor 'layers.0.weight' has shape [16, 23], the config asks for [16, 24]");
  holds(refused([](Tensors& t) { t.erase("layers.7.weight"), t.erase("layers.7.bias"); }),
        "tensor 'layers.6.weight' has shape [4, 6], the config asks for [1, 6]");
}

}  // namespace
}  // namespace unigrpo::scorers
