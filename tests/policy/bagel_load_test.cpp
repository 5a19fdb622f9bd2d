// What Bagel::load says about a folder that is not as its config files promise.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "policy/bagel/bagel.h"
#include "policy/load.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

namespace fs = std::filesystem;
using testing::message_of;

class LoadFolder : public ::testing::Test {
 protected:
  LoadFolder() { fs::copy(UNIGRPO_TEST_DATA "/bagel_tiny", folder); }

  std::string message(PolicyConfig config = {}) const {
    config.model = folder.string();
    return message_of<BadInput>([&] { Bagel::load(config, {}); });
  }
  /// Rewrites a file of tensors after `edit` was at them.
  void edit_tensors(const char* file, const std::function<void(NamedTensors&)>& edit) const {
    NamedTensors tensors;
    {
      const io::SafetensorsFile source(folder / file);
      for (const io::TensorView& view : source.tensors()) tensors.push_back({view.name, tensor::to_tensor(view)});
    }
    edit(tensors);
    std::vector<io::TensorView> views;
    for (const NamedTensor& t : tensors) views.push_back(tensor::to_view(t.tensor, t.name));
    io::write_safetensors(folder / file, views);
  }
  void edit_json(const char* file, const std::function<void(nlohmann::json&)>& edit) const {
    nlohmann::json object = nlohmann::json::parse(io::read_text_file(folder / file));  // takes 1e30 as an integer too
    edit(object);
    io::write_file_atomic(folder / file, std::string_view(object.dump()));
  }

  const testing::TempFolder temp;
  const fs::path folder = temp.path() / "model";
};

TEST_F(LoadFolder, AsItIsItLoads) { EXPECT_EQ(message(), "nothing"); }

TEST_F(LoadFolder, MissingTensorsAreNamed) {
  edit_tensors("ema.safetensors", [](NamedTensors& tensors) {
    std::erase_if(tensors, [](const NamedTensor& t) { return t.name.starts_with("llm2vae"); });
  });
  EXPECT_EQ(message(), (folder / "ema.safetensors").string() + ": 2 tensor(s) missing: llm2vae.bias, llm2vae.weight");
}

TEST_F(LoadFolder, ATensorThatNobodyAsksForIsNamed) {
  edit_tensors("ema.safetensors", [](NamedTensors& tensors) { tensors.push_back({"extra.weight", at::zeros({2})}); });
  EXPECT_EQ(message(),
            (folder / "ema.safetensors").string() + ": 1 tensor(s) that the config does not ask for: extra.weight");
}

TEST_F(LoadFolder, ATensorOfAnotherShapeIsNamedWithBoth) {
  edit_tensors("ema.safetensors", [](NamedTensors& tensors) {
    for (NamedTensor& t : tensors) {
      if (t.name == "vae2llm.weight") t.tensor = t.tensor.t().contiguous().view({32, 128});
    }
  });
  EXPECT_EQ(message(), (folder / "ema.safetensors").string() +
                           ": tensor 'vae2llm.weight' has shape [32, 128], the config asks for [64, 64]");
}

TEST_F(LoadFolder, TheAutoencodersTensorsAreCheckedToo) {
  edit_tensors("ae.safetensors", [](NamedTensors& tensors) { tensors.push_back({"extra", at::zeros({1})}); });
  EXPECT_NE(message().find("ae.safetensors: 1 tensor(s)"), std::string::npos) << message();
  edit_tensors("ae.safetensors", [](NamedTensors& tensors) {
    std::erase_if(tensors,
                  [](const NamedTensor& t) { return t.name == "extra" || t.name == "decoder.conv_in.weight"; });
  });
  EXPECT_NE(message().find("ae.safetensors: 1 tensor(s) missing: decoder.conv_in.weight"), std::string::npos)
      << message();
}

TEST_F(LoadFolder, ConfigValuesAreCheckedByFileAndKey) {
  const std::string file = (folder / "llm_config.json").string();
  const nlohmann::json good = io::parse_json(io::read_text_file(folder / "llm_config.json"), file);
  auto with = [&](const char* key, const nlohmann::json& value) {
    edit_json("llm_config.json", [&](nlohmann::json& object) {
      object = good;
      object[key] = value;
    });
    return message();
  };
  EXPECT_EQ(with("hidden_size", 0), file + ": 'hidden_size' must be a positive integer, got 0");
  EXPECT_EQ(with("hidden_size", "64"), file + ": 'hidden_size' must be a positive integer, got \"64\"");
  EXPECT_NE(with("num_attention_heads", 5).find("must give an even head width"), std::string::npos);
  EXPECT_NE(with("num_key_value_heads", 3).find("must be a multiple of num_key_value_heads 3"), std::string::npos);
  EXPECT_NE(with("vocab_size", 100).find("[448, 64], the config asks for [100, 64]"), std::string::npos);
}

TEST_F(LoadFolder, AMissingConfigKeyIsNamed) {
  edit_json("llm_config.json", [](nlohmann::json& object) { object.erase("num_hidden_layers"); });
  EXPECT_EQ(message(), (folder / "llm_config.json").string() + ": 'num_hidden_layers' is missing (a positive integer)");
}

TEST_F(LoadFolder, ATokenizerWithoutTheBlocksTokensIsRefused) {
  fs::remove(folder / "added_tokens.json");
  for (const char* file : {"special_tokens_map.json", "tokenizer_config.json"}) {
    edit_json(file, [](nlohmann::json& object) {
      for (const char* key : {"additional_special_tokens", "added_tokens_decoder"}) object.erase(key);
    });
  }
  EXPECT_NE(message().find("<|im_start|>"), std::string::npos) << message();
}

TEST_F(LoadFolder, LoraTargetsMustFitSomething) {
  PolicyConfig config;
  config.train = TrainMode::lora;
  config.lora.targets = {"nothing.*"};
  EXPECT_EQ(message(config), "policy.lora.targets: no weight of the model matches [nothing.*]");
}

TEST_F(LoadFolder, EachLoraTargetOfAListOfOnesOwnMustFit) {
  PolicyConfig config;
  config.train = TrainMode::lora;
  config.lora.targets = {"*_proj.weight", "*qproj.weight"};
  EXPECT_EQ(message(config), "policy.lora.targets: '*qproj.weight' fits no weight of " + folder.string());
}

TEST_F(LoadFolder, AdaptersStartAsPeftsDoWhateverTheirLayer) {
  PolicyConfig config;
  config.model = folder.string();
  config.train = TrainMode::lora;
  config.lora = {.rank = 64};
  int64_t seen = 0;
  for (const NamedTensor& p : Bagel::load(config, {.seed = 5})->parameters()) {
    const double largest = p.tensor.abs().max().item<double>();
    if (p.name.ends_with(".lora_B.weight")) {
      EXPECT_EQ(largest, 0) << p.name;
    }
    if (!p.name.ends_with(".lora_A.weight")) continue;
    // Kaiming uniform with a = sqrt(5): U(-b, b) with b = 1 / sqrt(in), whose standard deviation is b / sqrt(3).
    const double bound = 1 / std::sqrt(static_cast<double>(p.tensor.size(1)));
    EXPECT_LE(largest, bound) << p.name;
    EXPECT_GT(largest, 0.98 * bound) << p.name;
    EXPECT_NEAR(p.tensor.std().item<double>(), bound / std::sqrt(3.0), 0.05 * bound) << p.name;
    ++seen;
  }
  EXPECT_GE(seen, 14);
}

TEST_F(LoadFolder, AFreezePatternMustFitWhatEarlierOnesLeft) {
  PolicyConfig config;
  config.model = folder.string();
  const auto said = [&] { return unigrpo::testing::message_of<BadInput>([&] { policy::load(config, {}); }); };
  config.freeze = {"vit_modle.*"};
  EXPECT_EQ(said(), "policy.freeze: 'vit_modle.*' fits no parameter of " + folder.string());
  config.freeze = {"vit_model.*", "vit_model.vision*"};
  EXPECT_EQ(said(), "policy.freeze: 'vit_model.vision*' fits no parameter of " + folder.string() +
                        " that an earlier pattern left");
  config.model = UNIGRPO_TEST_DATA "/qwen2_tiny";
  config.freeze = PolicyConfig().freeze;  // of no Qwen2 parameter: a default, which fits what there is
  EXPECT_NO_THROW(policy::load(config, {}));
}

TEST_F(LoadFolder, FrozenPatternsHoldParametersStill) {
  PolicyConfig config;
  config.model = folder.string();
  config.freeze = {"vit_model.*", "*.layers.0.*"};
  for (const NamedTensor& p : Bagel::load(config, {})->parameters()) {
    const bool frozen = p.name.starts_with("vit_model.") || p.name.find(".layers.0.") != std::string::npos;
    EXPECT_EQ(p.tensor.requires_grad(), !frozen) << p.name;
  }
}

TEST_F(LoadFolder, AFreshModelIsAFunctionOfItsSeedAndDrawsNothingAtFirst) {
  const auto a = Bagel::create(folder, {.seed = 3}), b = Bagel::create(folder, {.seed = 3}),
             c = Bagel::create(folder, {.seed = 4});
  bool differs = false;
  const NamedTensors pa = a->parameters(), pb = b->parameters(), pc = c->parameters();
  for (size_t i = 0; i < pa.size(); ++i) {
    EXPECT_TRUE(at::equal(pa[i].tensor, pb[i].tensor)) << pa[i].name;
    differs = differs || !at::equal(pa[i].tensor, pc[i].tensor);
  }
  EXPECT_TRUE(differs);
  Context context;
  const Context* reader = &context;
  const at::Tensor v = a->denoise(std::span(&reader, 1), {4, 4})->velocity(at::ones({1, 16, 64}), at::ones({1}));
  EXPECT_EQ(v.abs().max().item<double>(), 0);
}

}  // namespace
}  // namespace unigrpo::policy
