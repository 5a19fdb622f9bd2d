#include "policy/qwen2/qwen2.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "policy/load.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "support/tiny_bagel.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

namespace fs = std::filesystem;
using testing::close;
using testing::message_of;

const fs::path kData = UNIGRPO_TEST_DATA;
constexpr double kParity = 1e-4;  // float32 against transformers
constexpr double kSame = 1e-5;    // the cached and the packed forward sum in other orders
const char* const kTexts[] = {"<|im_start|>3 + 4 =<|im_end|><|im_start|>7<|im_end|>",
                              "<|im_start|>The sum of 12 and 9 is 21.<|im_end|>", "+"};

PolicyConfig config_for(const fs::path& folder) {
  PolicyConfig config;
  config.model = folder.string();
  return config;
}

std::unique_ptr<Qwen2> tiny(TrainMode train = TrainMode::full, bool recompute = false) {
  PolicyConfig config = config_for(kData / "qwen2_tiny");
  config.train = train;
  config.lora = {.rank = 4, .alpha = 8};
  config.recompute = recompute;
  return Qwen2::load(config, {.seed = 5});
}

/// A text of golden.safetensors and what transformers computes on it.
struct Golden {
  std::vector<int64_t> ids;  // [T]
  at::Tensor logits;         // [T, V]
};

std::vector<Golden> goldens(const fs::path& folder) {
  const io::SafetensorsFile file(folder / "golden.safetensors");
  std::vector<Golden> goldens;
  for (size_t i = 0; i < std::size(kTexts); ++i) {
    const std::string tail = "." + std::to_string(i);
    const at::Tensor ids = tensor::to_tensor(*file.find("input_ids" + tail));
    goldens.push_back({.ids = {ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel()},
                       .logits = tensor::to_tensor(*file.find("logits" + tail))});
  }
  return goldens;
}

/// All texts in one batch: the first behind a prefix, the others from nothing, the second in two blocks.
TrainBatch batch_of(const std::vector<Golden>& golden) {
  auto text = [&](size_t i, size_t first, size_t count) {
    const auto begin = golden[i].ids.begin() + static_cast<int64_t>(first);
    return TextBlock{{begin, begin + static_cast<int64_t>(std::min(count, golden[i].ids.size() - first))}};
  };
  TrainBatch batch{.prefixes = {{text(0, 0, 9)}, {}}, .sequences = {}};
  batch.sequences = {{.prefix = 0, .blocks = {text(0, 9, 99)}},
                     {.prefix = 1, .blocks = {text(1, 0, 5), text(1, 5, 99)}},
                     {.prefix = 1, .blocks = {text(2, 0, 99)}}};
  return batch;
}

class Parity : public ::testing::TestWithParam<const char*> {
 protected:
  const fs::path folder = kData / GetParam();
  const std::unique_ptr<Qwen2> model = Qwen2::load(config_for(folder), {});
  const std::vector<Golden> golden = goldens(folder);
};

TEST_P(Parity, TheTokenizerGivesTheOfficialIds) {
  for (size_t i = 0; i < golden.size(); ++i)
    EXPECT_EQ(model->tokenizer().encode(kTexts[i]), golden[i].ids) << kTexts[i];
}

TEST_P(Parity, PackedLogitsAreThoseOfTransformers) {
  const at::NoGradGuard no_grad;
  const at::Tensor logits = model->logits(model->forward_train(batch_of(golden)).text_hidden);
  const int64_t answer = golden[0].logits.size(0) - 9;
  EXPECT_TRUE(
      close(logits, at::cat({golden[0].logits.narrow(0, 9, answer), golden[1].logits, golden[2].logits}), kParity));
}

TEST_P(Parity, CachedLogitsAreThoseOfTransformersTokenByTokenAndTogether) {
  for (const Golden& text : golden) {
    Context context;
    Context* row = &context;
    for (size_t t = 0; t < text.ids.size(); ++t) {
      const std::vector<int64_t> one = {text.ids[t]};
      const at::Tensor logits = model->append_text(std::span<Context* const>(&row, 1), std::span(&one, 1));
      EXPECT_TRUE(close(logits[0], text.logits[static_cast<int64_t>(t)], kParity)) << "token " << t;
    }
    model->release(context);
  }
  std::vector<Context> contexts(golden.size());
  std::vector<Context*> rows;
  std::vector<std::vector<int64_t>> ids;
  for (size_t i = 0; i < golden.size(); ++i) {
    rows.push_back(&contexts[i]);
    ids.push_back(golden[i].ids);
  }
  const at::Tensor last = model->append_text(rows, ids);
  for (size_t i = 0; i < golden.size(); ++i) {
    EXPECT_TRUE(close(last[static_cast<int64_t>(i)], golden[i].logits[-1], kParity)) << kTexts[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Qwen2, Parity, ::testing::Values("qwen2_tiny", "qwen2_tiny_tied"),
                         [](const auto& parameter) { return std::string(parameter.param); });

std::vector<at::Tensor> gradients(Qwen2& model) {
  for (NamedTensor& p : model.parameters()) p.tensor.mutable_grad().reset();
  const TrainOutput out = model.forward_train(batch_of(goldens(kData / "qwen2_tiny")));
  model.logits(out.text_hidden).log_softmax(-1).select(1, 5).sum().backward();
  std::vector<at::Tensor> grads;
  for (const NamedTensor& p : model.parameters()) grads.push_back(p.tensor.grad());
  return grads;
}

TEST(Qwen2, EveryParameterTrainsAndRecomputedActivationsChangeNoGradient) {
  const auto plain = tiny(), again = tiny(TrainMode::full, true);
  const auto want = gradients(*plain), got = gradients(*again);
  const NamedTensors parameters = plain->parameters();
  ASSERT_EQ(parameters.size(), 3U + 2 * 12);
  for (size_t i = 0; i < want.size(); ++i) {
    ASSERT_TRUE(want[i].defined()) << parameters[i].name;
    EXPECT_TRUE(close(got[i], want[i], kSame * std::max(1.0, want[i].abs().max().item<double>())))
        << parameters[i].name;
  }
}

TEST(Qwen2, TiedEmbeddingsAreOneParameter) {
  const auto model = Qwen2::load(config_for(kData / "qwen2_tiny_tied"), {});
  for (const NamedTensor& p : model->parameters()) EXPECT_NE(p.name, "lm_head.weight");
  // An id that no text holds is reached through the logits alone.
  model->logits(model->forward_train(batch_of(goldens(kData / "qwen2_tiny_tied"))).text_hidden)
      .select(1, 300)
      .sum()
      .backward();
  EXPECT_GT(testing::parameter(*model, "model.embed_tokens.weight").grad()[300].abs().max().item<double>(), 0);
}

TEST(Qwen2, AdaptersStartAtTheBaseAndMergeIntoIt) {
  const at::NoGradGuard no_grad;
  auto outputs = [](Qwen2& model) {
    return model.logits(model.forward_train(batch_of(goldens(kData / "qwen2_tiny"))).text_hidden);
  };
  const auto base = tiny(), adapted = tiny(TrainMode::lora);
  EXPECT_TRUE(close(outputs(*adapted), outputs(*base), kSame));
  testing::randomize_adapters(*adapted);
  const at::Tensor moved = outputs(*adapted);
  EXPECT_GT((moved - outputs(*base)).abs().max().item<double>(), 1e-2);
  {
    const AdaptersOff off(*adapted);
    EXPECT_TRUE(close(outputs(*adapted), outputs(*base), kSame));
  }
  for (const NamedTensor& weight : adapted->merged()) testing::parameter(*base, weight.name).copy_(weight.tensor);
  EXPECT_TRUE(close(outputs(*base), moved, kSame * moved.abs().max().item<double>()));
}

TEST(Qwen2, ImagesAreRefused) {
  const auto model = tiny();
  const std::string said = message_of<BadInput>([&] { model->grid_for(64); });
  EXPECT_NE(said.find("qwen2_tiny: a Qwen2.5 model reads and writes text only"), std::string::npos) << said;
  EXPECT_NE(said.find("episode = [\"text\"]"), std::string::npos) << said;
  EXPECT_THROW(model->read_images({}, true), BadInput);
  EXPECT_THROW(model->latent_channels(), BadInput);
  TrainBatch batch{.prefixes = {{}}, .sequences = {{}}};
  batch.sequences[0].blocks = {NoisyBlock{at::zeros({1, 16, 64}), at::zeros({1}), {4, 4}}};
  EXPECT_THROW(model->forward_train(batch), BadInput);
}

TEST(Load, TakesTheFamilyThatTheFolderNames) {
  EXPECT_NE(dynamic_cast<Bagel*>(load(config_for(kData / "bagel_tiny"), {}).get()), nullptr);
  EXPECT_NE(dynamic_cast<Qwen2*>(load(config_for(kData / "qwen2_tiny"), {}).get()), nullptr);
  const ModelSizes sizes = read_sizes(kData / "qwen2_tiny_tied");
  EXPECT_EQ(sizes.family->name, "qwen2");
  EXPECT_EQ(sizes.llm.head_dim, 16);
  const auto model = Qwen2::load(config_for(kData / "qwen2_tiny_tied"), {});
  ASSERT_EQ(sizes.shapes.size(), model->parameters().size());
  for (const NamedTensor& shape : sizes.shapes) {
    EXPECT_EQ(shape.tensor.sizes(), testing::parameter(*model, shape.name).sizes()) << shape.name;
  }
}

class Qwen2Folder : public ::testing::Test {
 protected:
  explicit Qwen2Folder(const char* source = "qwen2_tiny") { fs::copy(kData / source, folder); }

  std::string message() const {
    return message_of<BadInput>([&] { load(config_for(folder), {}); });
  }
  void edit_config(const std::function<void(nlohmann::json&)>& edit) const {
    auto object = nlohmann::json::parse(io::read_text_file(folder / "config.json"));
    edit(object);
    io::write_file_atomic(folder / "config.json", std::string_view(object.dump()));
  }
  std::string with(const char* key, const nlohmann::json& value) const {
    const std::string before = io::read_text_file(folder / "config.json");
    edit_config([&](nlohmann::json& object) { object[key] = value; });
    const std::string said = message();
    io::write_file_atomic(folder / "config.json", std::string_view(before));
    return said;
  }

  const testing::TempFolder temp;
  const fs::path folder = temp.path() / "model";
};

TEST_F(Qwen2Folder, WhatTheLayersDoNotComputeIsRefusedByFileAndKey) {
  EXPECT_EQ(message(), "nothing");
  const std::string file = (folder / "config.json").string();
  EXPECT_EQ(with("use_sliding_window", true),
            file + ": 'use_sliding_window' is true; attention within a window is not supported, only full attention");
  EXPECT_EQ(
      with("rope_scaling", {{"factor", 4.0}}),
      file + ": 'rope_scaling' is {\"factor\":4.0}; scaled rotary positions are not supported, only 'rope_theta'");
  EXPECT_EQ(
      with("rope_parameters", {{"rope_type", "yarn"}, {"rope_theta", 1e6}}),
      file + ": rope_parameters: 'rope_type' is \"yarn\"; scaled rotary positions are not supported, only \"default\"");
  EXPECT_EQ(with("rope_parameters", {{"rope_type", "default"}, {"rope_theta", 1e6}}), "nothing");
  EXPECT_EQ(with("hidden_act", "gelu"), file + ": 'hidden_act' must be \"silu\", got \"gelu\"");
  EXPECT_EQ(with("head_dim", 7), file + ": a head width of 7 is odd; rotary positions turn pairs");
}

TEST_F(Qwen2Folder, AnotherFamilyIsNamedWithWhatIsExpected) {
  const std::string kExpected =
      "expected one of \"bagel\" (a BAGEL folder), \"qwen2\" (a Qwen2.5 folder), \"unigrpo_pair\" (a pair of models)";
  const std::string file = (folder / "config.json").string();
  EXPECT_EQ(with("model_type", "llama"), file + ": 'model_type' is \"llama\"; " + kExpected);
  edit_config([](nlohmann::json& object) { object.erase("model_type"); });
  EXPECT_EQ(message(), "nothing");  // architectures says it as well
  EXPECT_EQ(with("architectures", {"GPT2LMHeadModel"}),
            file +
                ": 'architectures' is [\"GPT2LMHeadModel\"]; expected [\"BagelForConditionalGeneration\"] or "
                "[\"Qwen2ForCausalLM\"]");
  edit_config([](nlohmann::json& object) { object.erase("architectures"); });
  EXPECT_EQ(message(), file + ": 'model_type' is missing; " + kExpected);
  EXPECT_EQ(message_of<BadInput>([&] { read_bagel_config(kData / "qwen2_tiny"); }),
            (kData / "qwen2_tiny").string() + ": a qwen2 model; this needs a BAGEL folder");
}

TEST_F(Qwen2Folder, AMissingHeadIsNamedUnlessItIsTied) {
  EXPECT_EQ(with("tie_word_embeddings", true), "nothing");  // the copy in the file is passed over
  fs::remove(folder / "model.safetensors");
  EXPECT_EQ(message(), folder.string() + ": no model.safetensors (or *.safetensors.index.json) in this model folder");
}

class TiedFolder : public Qwen2Folder {
 protected:
  TiedFolder() : Qwen2Folder("qwen2_tiny_tied") {}
};

TEST_F(TiedFolder, WithoutTyingTheHeadIsMissing) {
  EXPECT_EQ(message(), "nothing");
  EXPECT_EQ(with("tie_word_embeddings", false),
            (folder / "model.safetensors.index.json").string() + ": 1 tensor(s) missing: lm_head.weight");
}

}  // namespace
}  // namespace unigrpo::policy
