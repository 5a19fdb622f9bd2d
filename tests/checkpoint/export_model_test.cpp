#include "checkpoint/export_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "checkpoint/snapshots.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "io/safetensors.h"
#include "support/temp_folder.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

namespace fs = std::filesystem;
using testing::failure_of;

const fs::path kTiny = fs::path(UNIGRPO_TEST_DATA) / "bagel_tiny";
const std::string kWeight = "language_model.model.layers.0.self_attn.q_proj.weight";

std::string read(const fs::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

bool same_tensors(const io::Checkpoint& a, const io::Checkpoint& b) {
  return std::equal(a.tensors().begin(), a.tensors().end(), b.tensors().begin(), b.tensors().end(),
                    [](const io::TensorView* x, const io::TensorView* y) {
                      return x->name == y->name && x->dtype == y->dtype && x->shape == y->shape &&
                             std::equal(x->bytes.begin(), x->bytes.end(), y->bytes.begin(), y->bytes.end());
                    });
}

class ExportModel : public ::testing::Test {
 protected:
  testing::TempFolder folder_;
  fs::path out_ = folder_.path() / "export";
};

TEST_F(ExportModel, AnUntouchedRoundTripGivesTheSameBytes) {
  export_model(kTiny, out_, {}, {.metadata = {{"unigrpo.step", "7"}}});
  for (const char* name : {"config.json", "llm_config.json", "vit_config.json", "vocab.json", "merges.txt",
                           "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "ae.safetensors"}) {
    EXPECT_EQ(read(kTiny / name), read(out_ / name)) << name;
  }
  EXPECT_FALSE(fs::exists(out_ / "golden.json"));
  const auto found = io::Checkpoint::open(out_ / "ema.safetensors");
  EXPECT_TRUE(same_tensors(io::Checkpoint::open(kTiny / "ema.safetensors"), found));
  EXPECT_EQ(found.metadata().at("unigrpo.step"), "7");
  EXPECT_EQ(found.metadata().at("format"), "pt");
  // The same tensors handed in as weights change nothing either.
  optim::NamedParameters weights;
  for (const io::TensorView* view : found.tensors()) weights.push_back({view->name, tensor::to_tensor(*view)});
  export_model(kTiny, folder_.path() / "second/", weights);
  EXPECT_TRUE(same_tensors(found, io::Checkpoint::open(folder_.path() / "second" / "ema.safetensors")));
}

TEST_F(ExportModel, WritesNewValuesInTheSourcesTypeOrTheOneAskedFor) {
  const auto source = io::Checkpoint::open(kTiny / "ema.safetensors");
  const at::Tensor value = at::full(source.find(kWeight)->shape, 0.5, at::kBFloat16);
  export_model(kTiny, out_, {{kWeight, value}}, {.generation_config = "{\"cfg_scale\": 1}\n"});
  const auto kept = io::Checkpoint::open(out_ / "ema.safetensors");
  EXPECT_EQ(kept.find(kWeight)->dtype, io::DType::f32);
  EXPECT_TRUE(at::equal(tensor::to_tensor(*kept.find(kWeight)), value.to(at::kFloat)));
  EXPECT_EQ(read(out_ / "generation_config.json"), "{\"cfg_scale\": 1}\n");
  fs::remove_all(out_);
  export_model(kTiny, out_, {{kWeight, value}}, {.dtype = at::kBFloat16});
  const auto narrow = io::Checkpoint::open(out_ / "ema.safetensors");
  ASSERT_EQ(narrow.tensors().size(), source.tensors().size());
  for (const io::TensorView* view : narrow.tensors()) EXPECT_EQ(view->dtype, io::DType::bf16) << view->name;
  const std::string other = "language_model.lm_head.weight";
  EXPECT_TRUE(
      at::equal(tensor::to_tensor(*narrow.find(other)), tensor::to_tensor(*source.find(other)).to(at::kBFloat16)));
}

// config.json, and what else there is of configs, name the type of the weights beside them.
TEST_F(ExportModel, ConfigsNameTheTypeThatIsWritten) {
  const auto config = [&](const char* name) { return io::read_json_file(out_ / name); };
  export_model(kTiny, out_, {}, {.dtype = at::kBFloat16});
  EXPECT_EQ(config("config.json").at("llm_config").at("torch_dtype"), "bfloat16");
  EXPECT_EQ(config("llm_config.json").value("torch_dtype", "bfloat16"), "bfloat16");
  EXPECT_EQ(config("config.json").at("max_latent_size"), 8);
  export_model(out_, folder_.path() / "wide", {}, {.dtype = at::kFloat});
  out_ = folder_.path() / "wide";
  EXPECT_EQ(config("config.json").at("llm_config").at("torch_dtype"), "float32");

  const fs::path data = UNIGRPO_TEST_DATA;
  out_ = folder_.path() / "qwen2";
  export_model(data / "qwen2_tiny", out_, {}, {.dtype = at::kBFloat16});
  EXPECT_EQ(config("config.json").at("dtype"), "bfloat16");
  EXPECT_FALSE(config("config.json").contains("torch_dtype"));
  export_model(data / "qwen2_tiny", folder_.path() / "same", {}, {.dtype = at::kFloat});
  EXPECT_EQ(read(folder_.path() / "same/config.json"), read(data / "qwen2_tiny/config.json"));  // to the byte

  fs::create_directories(folder_.path() / "silent");  // a config that names none
  nlohmann::json silent = io::read_json_file(data / "qwen2_tiny/config.json");
  silent.erase("dtype");
  folder_.write("silent/config.json", silent.dump());
  fs::copy_file(data / "qwen2_tiny/model.safetensors", folder_.path() / "silent/model.safetensors");
  out_ = folder_.path() / "told";
  export_model(folder_.path() / "silent", out_, {}, {.dtype = at::kBFloat16});
  EXPECT_EQ(config("config.json").at("torch_dtype"), "bfloat16");
}

TEST_F(ExportModel, SplitsOverALimitAndReadsItsOwnShards) {
  export_model(kTiny, out_, {}, {.shard_bytes = 500000});
  EXPECT_FALSE(fs::exists(out_ / "ema.safetensors"));
  EXPECT_TRUE(fs::exists(out_ / "model-00004-of-00004.safetensors"));
  const auto source = io::Checkpoint::open(kTiny / "ema.safetensors");
  EXPECT_TRUE(same_tensors(source, io::Checkpoint::open(out_ / "model.safetensors.index.json")));
  export_model(out_, folder_.path() / "joined", {});
  EXPECT_TRUE(same_tensors(source, io::Checkpoint::open(folder_.path() / "joined" / "ema.safetensors")));
}

// The file holds wider elements first, the weights come in an order of their own, and shards cut across both.
TEST_F(ExportModel, MixedTypesGoByNameWhateverTheOrder) {
  fs::create_directories(folder_.path() / "mixed");
  for (const char* name : {"config.json", "llm_config.json", "vit_config.json"}) {
    fs::copy_file(kTiny / name, folder_.path() / "mixed" / name);
  }
  const std::map<std::string, at::ScalarType> types = {
      {"a", at::kBFloat16}, {"b", at::kFloat}, {"c", at::kHalf}, {"d", at::kDouble}, {"e", at::kBFloat16}};
  std::vector<at::Tensor> owned;
  std::vector<io::TensorView> views;
  for (const auto& [name, type] : types) {
    owned.push_back(at::zeros({4}, type));
    views.push_back(tensor::to_view(owned.back(), name));
  }
  io::write_safetensors(folder_.path() / "mixed" / "ema.safetensors", views);
  const optim::NamedParameters weights = {{"e", at::full({4}, 5.0)},
                                          {"b", at::full({4}, 2.0)},
                                          {"d", at::full({4}, 4.0)},
                                          {"a", at::full({4}, 1.0)},
                                          {"c", at::full({4}, 3.0)}};
  for (const uint64_t shard_bytes : {uint64_t{0}, uint64_t{24}}) {
    const fs::path out = folder_.path() / std::to_string(shard_bytes);
    export_model(folder_.path() / "mixed", out, weights, {.shard_bytes = shard_bytes});
    const auto written =
        io::Checkpoint::open(out / (shard_bytes == 0 ? "ema.safetensors" : "model.safetensors.index.json"));
    for (const optim::NamedParameter& weight : weights) {
      const at::Tensor found = tensor::to_tensor(*written.find(weight.name));
      EXPECT_EQ(found.scalar_type(), types.at(weight.name)) << weight.name;
      EXPECT_TRUE(at::equal(found.to(at::kDouble), weight.tensor.to(at::kDouble))) << weight.name;
    }
  }
}

TEST_F(ExportModel, WritesANewAutoencoderAndAModelFromNothing) {
  fs::create_directories(folder_.path() / "configs");
  for (const char* name : {"config.json", "llm_config.json", "vit_config.json"}) {
    fs::copy_file(kTiny / name, folder_.path() / "configs" / name);
  }
  export_model(folder_.path() / "configs", out_, {{"w", at::ones({2, 3})}},
               {.dtype = at::kBFloat16, .autoencoder = {{"decoder.conv_in.bias", at::ones({4})}}});
  EXPECT_EQ(io::Checkpoint::open(out_ / "ema.safetensors").find("w")->dtype, io::DType::bf16);
  EXPECT_EQ(io::Checkpoint::open(out_ / "ae.safetensors").find("decoder.conv_in.bias")->dtype, io::DType::bf16);
  const std::string what = failure_of([&] {
    export_model(kTiny, folder_.path() / "x", {}, {.autoencoder = {{"decoder.conv_in.bias", at::ones({4})}}});
  });
  EXPECT_NE(what.find("ae.safetensors: tensor 'decoder.conv_in.bias' has shape [64]"), std::string::npos) << what;
}

TEST_F(ExportModel, AQwen2FolderComesOutInItsOwnLayout) {
  const fs::path untied = fs::path(UNIGRPO_TEST_DATA) / "qwen2_tiny",
                 tied = fs::path(UNIGRPO_TEST_DATA) / "qwen2_tiny_tied";
  const at::Tensor value = at::full({408, 32}, 0.5);
  export_model(untied, out_, {{"lm_head.weight", value}});
  EXPECT_EQ(read(out_ / "config.json"), read(untied / "config.json"));
  EXPECT_EQ(read(out_ / "vocab.json"), read(untied / "vocab.json"));
  EXPECT_FALSE(fs::exists(out_ / "ae.safetensors"));
  EXPECT_FALSE(fs::exists(out_ / "golden.safetensors"));
  const auto written = io::Checkpoint::open(out_ / "model.safetensors");
  EXPECT_TRUE(at::equal(tensor::to_tensor(*written.find("lm_head.weight")), value));

  export_model(tied, folder_.path() / "tied", {});  // out of shards
  EXPECT_TRUE(same_tensors(io::Checkpoint::open(tied / "model.safetensors.index.json"),
                           io::Checkpoint::open(folder_.path() / "tied" / "model.safetensors")));
  fs::create_directories(folder_.path() / "copied_head");
  for (const auto& [name, from] : {std::pair{"config.json", tied}, std::pair{"model.safetensors", untied}}) {
    fs::copy_file(from / name, folder_.path() / "copied_head" / name);
  }
  export_model(folder_.path() / "copied_head", folder_.path() / "one", {});
  EXPECT_EQ(io::Checkpoint::open(folder_.path() / "one" / "model.safetensors").find("lm_head.weight"), nullptr);
}

TEST_F(ExportModel, RefusesWhatDoesNotFitAndLeavesNothing) {
  EXPECT_NE(failure_of([&] {
              export_model(kTiny, out_, {{"no.such", at::ones({2})}});
            }).find("ema.safetensors: has no tensor 'no.such'"),
            std::string::npos);
  EXPECT_NE(failure_of([&] {
              export_model(kTiny, out_, {{kWeight, at::ones({2})}});
            }).find("tensor '" + kWeight + "' has shape [64, 64], the weight to export has [2]"),
            std::string::npos);
  EXPECT_NE(failure_of([&] { export_model(folder_.path(), out_, {}); }).find("no config.json"), std::string::npos);
  fault::configure("save.write:4=enospc");
  EXPECT_NE(failure_of([&] { export_model(kTiny, out_, {}); }).find("needed"), std::string::npos);
  fault::configure("");
  EXPECT_TRUE(fs::is_empty(folder_.path()));
  folder_.write("export/README", "mine");
  EXPECT_NE(failure_of([&] { export_model(kTiny, out_, {}); }).find("is not an empty folder"), std::string::npos);
  EXPECT_EQ(read(out_ / "README"), "mine");
  fs::remove(out_ / "README");
  export_model(kTiny, out_, {});
  EXPECT_TRUE(fs::exists(out_ / "ema.safetensors"));
}

}  // namespace
}  // namespace unigrpo::checkpoint
