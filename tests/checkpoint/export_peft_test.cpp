#include "checkpoint/export_peft.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/snapshots.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "support/temp_folder.h"

namespace unigrpo::checkpoint {
namespace {

using testing::failure_of;

LoraAdapter example() {
  const std::string layer = "language_model.model.layers.0.self_attn.";
  return {.rank = 2,
          .alpha = 4,
          .dropout = 0.5,
          .base_model = "assets/shapes-base",
          .tensors = {{layer + "q_proj.lora_A.weight", at::arange(6).to(at::kFloat).reshape({2, 3})},
                      {layer + "q_proj.lora_B.weight", at::ones({5, 2})},
                      {layer + "q_proj_moe_gen.lora_A.weight", at::full({2, 3}, 0.25, at::kBFloat16)},
                      {layer + "q_proj_moe_gen.lora_B.weight", at::ones({5, 2}, at::kBFloat16)}}};
}

TEST(ExportPeft, WritesPeftsNamesAndReadsThemBack) {
  const testing::TempFolder folder;
  const auto out = folder.path() / "adapter";
  const LoraAdapter adapter = example();
  export_peft(out, adapter);
  const io::SafetensorsFile file(out / "adapter_model.safetensors");
  const io::TensorView* a = file.find("base_model.model.language_model.model.layers.0.self_attn.q_proj.lora_A.weight");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(a->shape, (std::vector<int64_t>{2, 3}));
  const nlohmann::json config = io::read_json_file(out / "adapter_config.json");
  EXPECT_EQ(config.at("peft_type"), "LORA");
  EXPECT_TRUE(config.at("task_type").is_null());
  EXPECT_EQ(config.at("r"), 2);
  EXPECT_TRUE(config.at("lora_alpha").is_number_integer());
  EXPECT_EQ(config.at("target_modules").size(), 2);
  const LoraAdapter found = read_peft(out);
  EXPECT_EQ(found.rank, adapter.rank);
  EXPECT_EQ(found.alpha, adapter.alpha);
  EXPECT_EQ(found.dropout, adapter.dropout);
  EXPECT_EQ(found.base_model, adapter.base_model);
  ASSERT_EQ(found.tensors.size(), adapter.tensors.size());
  for (size_t i = 0; i < found.tensors.size(); ++i) {
    EXPECT_EQ(found.tensors[i].name, adapter.tensors[i].name);
    EXPECT_TRUE(at::equal(found.tensors[i].tensor, adapter.tensors[i].tensor));
  }
}

TEST(ExportPeft, CarriesTaskAndSamplingSettingsWhereToldTo) {
  const testing::TempFolder folder;
  export_peft(folder.path() / "a", example(), {.task_type = "CAUSAL_LM", .generation_config = "{}\n"});
  EXPECT_EQ(io::read_json_file(folder.path() / "a/adapter_config.json").at("task_type"), "CAUSAL_LM");
  EXPECT_EQ(io::read_text_file(folder.path() / "a/generation_config.json"), "{}\n");
}

TEST(ExportPeft, ReadsAConfigWithSuffixesAsPeftWritesIt) {
  const testing::TempFolder folder;
  const auto out = folder.path() / "adapter";
  export_peft(out, example());
  nlohmann::json config = io::read_json_file(out / "adapter_config.json");
  config["target_modules"] = {"q_proj", "q_proj_moe_gen"};
  config["peft_version"] = "0.19.1";
  folder.write("adapter/adapter_config.json", config.dump());
  EXPECT_EQ(read_peft(out).tensors.size(), 4);
}

TEST(ExportPeft, RefusesWhatWouldComputeSomethingElse) {
  using Edit = std::function<void(nlohmann::json&)>;
  const std::vector<std::pair<Edit, std::string>> cases = {
      {[](auto& c) { c["peft_type"] = "LOHA"; }, "peft_type is \"LOHA\""},
      {[](auto& c) { c["use_rslora"] = true; }, "use_rslora is true"},
      {[](auto& c) { c["use_dora"] = true; }, "use_dora is true"},
      {[](auto& c) { c["fan_in_fan_out"] = true; }, "fan_in_fan_out is true"},
      {[](auto& c) { c["bias"] = "all"; }, "bias is \"all\""},
      {[](auto& c) { c["modules_to_save"] = {"lm_head"}; }, "modules_to_save is [\"lm_head\"]"},
      {[](auto& c) { c["rank_pattern"] = {{"q_proj", 4}}; }, "rank_pattern is "},
      {[](auto& c) { c["target_modules"] = {"q_proj"}; }, "target_modules names no "},
      {[](auto& c) { c["r"] = 3; }, "rank 3"},
      {[](auto& c) { c["r"] = 2.5; }, "r must be a whole number"},
      {[](auto& c) { c["r"] = 0; }, "r is 0"},
      {[](auto& c) { c.erase("lora_alpha"); }, "lora_alpha"},
      {[](auto& c) { c = nlohmann::json::array(); }, "not an adapter's config"},
  };
  const testing::TempFolder folder;
  const auto out = folder.path() / "adapter";
  export_peft(out, example());
  const nlohmann::json config = io::read_json_file(out / "adapter_config.json");
  for (const auto& [edit, expected] : cases) {
    nlohmann::json edited = config;
    edit(edited);
    folder.write("adapter/adapter_config.json", edited.dump());
    const std::string what = failure_of([&] { read_peft(out); });
    EXPECT_NE(what.find(expected), std::string::npos) << what;
    EXPECT_NE(what.find("adapter"), std::string::npos) << what;
  }
}

// tests/data/peft is what PEFT 0.21 writes (tools/make_golden/peft_tiny.py).
std::filesystem::path peft_data() { return std::filesystem::path(UNIGRPO_TEST_DATA) / "peft"; }

// What read_peft says of the real library's plain adapter (q_proj and down_proj of both layers) under another config.
std::string said_of(const nlohmann::json& config) {
  const testing::TempFolder folder;
  std::filesystem::copy_file(peft_data() / "plain/adapter_model.safetensors",
                             folder.path() / "adapter_model.safetensors");
  folder.write("adapter_config.json", config.dump());
  return failure_of([&] { read_peft(folder.path()); });
}

TEST(ReadPeft, ConfigsThatPeftWritesAreReadOrRefusedByName) {
  const nlohmann::json configs = io::read_json_file(peft_data() / "configs.json");
  const std::vector<std::pair<std::string, std::string>> refused = {
      {"pissa", "init_lora_weights is \"pissa\", which changed the base's weights; convert it in PEFT"},
      {"pissa_niter_4", "init_lora_weights is \"pissa_niter_4\""},
      {"olora", "init_lora_weights is \"olora\""},
      {"corda", "path_initial_model_for_weight_conversion"},
      {"lora_ga", "path_initial_model_for_weight_conversion"},
      {"loftq", "merge_and_unload()"},
      {"alora", "alora_invocation_tokens is [401,23]"},
      {"trainable_tokens", "trainable_token_indices is [5,6]"},
      {"layers", "layers_to_transform is [0] and leaves out 'model.layers.1."},
      {"pattern", "layers_to_transform is [0,1] and leaves out 'model.layers.0."},
      {"excluded", "exclude_modules names 'model.layers.0.mlp.down_proj'"},
      {"parameters", "target_parameters is "},
      {"replicated", "layer_replication is "},
      {"bias", "lora_bias is true"},
      {"qalora", "use_qalora is true"}};
  for (const auto& [name, expected] : refused) {
    const std::string what = said_of(configs.at(name));
    EXPECT_NE(what.find("adapter_config.json: "), std::string::npos) << name << ": " << what;
    EXPECT_NE(what.find(expected), std::string::npos) << name << ": " << what;
  }
  for (const char* name : {"gaussian", "eva", "orthogonal", "mica", "false"}) {
    EXPECT_EQ(said_of(configs.at(name)), "") << name;
  }
}

TEST(ReadPeft, AKeyThatNobodyKnowsPassesWhereItIsOff) {
  const nlohmann::json config = io::read_json_file(peft_data() / "plain/adapter_config.json");
  const auto said = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json edited = config;
    edited[key] = value;
    return said_of(edited);
  };
  for (const nlohmann::json& off : {nlohmann::json(nullptr), nlohmann::json(false), nlohmann::json::array()}) {
    EXPECT_EQ(said("use_newlora", off), "") << off;
  }
  EXPECT_NE(said("use_newlora", true).find("use_newlora is true, only false is supported"), std::string::npos);
  EXPECT_NE(said("newlora_config", {{"a", 1}}).find("newlora_config is "), std::string::npos);
  EXPECT_NE(said("init_lora_weights", "pissa_v2").find("pissa_v2"), std::string::npos);
  EXPECT_NE(said("init_lora_weights", "lookalike").find("expected true, false, \"gaussian\""), std::string::npos);
  EXPECT_EQ(said("layers_to_transform", {0, 1}), "");
  EXPECT_NE(said("layers_to_transform", {0, 1, 2}).find("names layer 2, of which"), std::string::npos);
  EXPECT_NE(said("layers_to_transform", 0).find("leaves out"), std::string::npos);
  EXPECT_EQ(said("target_modules", ".*\\.(q_proj|down_proj)"), "");
  EXPECT_NE(said("target_modules", ".*\\.q_proj").find("target_modules names no "), std::string::npos);
  EXPECT_EQ(said("target_modules", "all-linear"), "");
}

TEST(ExportPeft, RefusesTensorsThatAreNoPairs) {
  const testing::TempFolder folder;
  LoraAdapter adapter = example();
  adapter.tensors.pop_back();
  EXPECT_NE(failure_of([&] { export_peft(folder.path() / "a", adapter); }).find("q_proj_moe_gen' has no lora_B"),
            std::string::npos);
  adapter = example();
  adapter.tensors[1].tensor = at::ones({5, 3});
  EXPECT_NE(failure_of([&] { export_peft(folder.path() / "a", adapter); }).find("[out, rank], rank 2"),
            std::string::npos);
  adapter = example();
  adapter.tensors.push_back({"lm_head.weight", at::ones({2, 2})});
  EXPECT_NE(failure_of([&] { export_peft(folder.path() / "a", adapter); }).find("'lm_head.weight' is not named"),
            std::string::npos);
  EXPECT_NE(failure_of([&] { export_peft(folder.path() / "a", {.rank = 2}); }).find("holds no adapter"),
            std::string::npos);
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

}  // namespace
}  // namespace unigrpo::checkpoint
