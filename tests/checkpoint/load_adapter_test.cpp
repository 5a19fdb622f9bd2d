#include "checkpoint/load_adapter.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/snapshots.h"
#include "io/safetensors.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::failure_of;

const fs::path kData = UNIGRPO_TEST_DATA;

policy::PolicyConfig base(const std::string& name = "qwen2_tiny") {
  policy::PolicyConfig config;
  config.model = (kData / name).string();
  config.freeze = {"*"};
  return config;
}

at::Tensor logits_of(policy::UnifiedPolicy& model, const at::Tensor& ids) {
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> list(ids.const_data_ptr<int64_t>(), ids.const_data_ptr<int64_t>() + ids.numel());
  policy::TrainBatch batch{.prefixes = {{}}, .sequences = {{.prefix = 0, .blocks = {policy::TextBlock{list}}}}};
  return model.logits(model.forward_train(batch).text_hidden);
}

// A copy of a fixture with other tensors.
void spoil(const fs::path& folder, const std::function<void(std::map<std::string, at::Tensor>&)>& change) {
  std::map<std::string, at::Tensor> tensors;
  {
    const io::SafetensorsFile file(kData / "peft/embeddings/adapter_model.safetensors");
    for (const io::TensorView& view : file.tensors()) tensors.emplace(view.name, tensor::to_tensor(view));
  }
  change(tensors);
  std::vector<io::TensorView> views;
  for (const auto& [name, tensor] : tensors) views.push_back(tensor::to_view(tensor, name));
  io::write_safetensors(folder / "adapter_model.safetensors", views);
  fs::copy_file(kData / "peft/embeddings/adapter_config.json", folder / "adapter_config.json");
}

// Layers, layers_to_transform, lm_head and embeddings with their base beside them, and PEFT's conversion of PiSSA.
TEST(LoadAdapter, LogitsAreThoseOfPeft) {
  for (const char* name : {"plain", "layer", "embeddings", "pissa_converted"}) {
    const auto model = load_with_adapter(base(), kData / "peft" / name, {});
    const io::SafetensorsFile golden(kData / "peft" / name / "golden.safetensors");
    const at::Tensor got = logits_of(*model, tensor::to_tensor(*golden.find("input_ids")));
    EXPECT_TRUE(testing::close(got, tensor::to_tensor(*golden.find("logits")), 1e-4)) << name;  // float32
  }
}

TEST(LoadAdapter, TheBaseInTheFileMustBeTheModels) {
  const std::string head = "base_model.model.lm_head.base_layer.weight";
  const testing::TempFolder equal, other, resized;
  spoil(equal.path(), [&](auto& tensors) { tensors[head] = tensors[head].to(at::kBFloat16); });
  EXPECT_EQ(failure_of([&] { load_with_adapter(base(), equal.path(), {}); }), "");  // saved in a coarser type
  policy::PolicyConfig narrow = base();
  narrow.dtype = policy::DtypeChoice::bfloat16;
  EXPECT_EQ(failure_of([&] { load_with_adapter(narrow, kData / "peft/embeddings", {}); }), "");
  spoil(other.path(), [&](auto& tensors) { tensors[head][3][4] += 0.5; });
  const std::string what = failure_of([&] { load_with_adapter(base(), other.path(), {}); });
  EXPECT_NE(what.find("holds 'lm_head.weight' [408, 32] of its base, and the model's [408, 32] is another"),
            std::string::npos)
      << what;
  EXPECT_NE(what.find("give the base that it was trained on"), std::string::npos) << what;
  spoil(resized.path(), [&](auto& tensors) { tensors["base_model.model.model.norm.weight"] = at::ones({3}); });
  const std::string size = failure_of([&] { load_with_adapter(base(), resized.path(), {}); });
  EXPECT_NE(size.find("holds 'model.norm.weight' [3]"), std::string::npos) << size;
}

TEST(LoadAdapter, EmbeddingsThatLmHeadIsTiedToAreRefused) {
  const testing::TempFolder folder;
  spoil(folder.path(), [](auto& tensors) {
    std::erase_if(tensors,
                  [](const auto& entry) { return entry.first.find("embed_tokens.lora") == std::string::npos; });
  });
  const std::string what = failure_of([&] { load_with_adapter(base("qwen2_tiny_tied"), folder.path(), {}); });
  EXPECT_NE(what.find("adapts 'model.embed_tokens', to which the model's lm_head is tied"), std::string::npos) << what;
}

}  // namespace
}  // namespace unigrpo::checkpoint
