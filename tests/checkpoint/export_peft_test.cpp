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
