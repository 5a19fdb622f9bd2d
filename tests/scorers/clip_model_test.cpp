#include "scorers/clip_model.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "scorers/images.h"
#include "scorers/tiny_clip.h"
#include "support/tensors.h"

namespace unigrpo::scorers {
namespace {

using testing::close;
using testing::message_of;
using Tensors = std::map<std::string, at::Tensor>;

constexpr double kParity = 1e-5;  // float32 against transformers; values reach 6
constexpr size_t kPrompts = 5;

/// The golden prompts as one batch; `fill` stands behind their ends.
at::Tensor input_ids(const Golden& golden, int64_t length, int64_t fill) {
  at::Tensor ids = at::full({kPrompts, length}, fill, at::kLong);
  for (size_t i = 0; i < kPrompts; ++i) {
    const std::vector<int64_t> row = golden.ids(i);
    std::ranges::copy(row, ids[static_cast<int64_t>(i)].mutable_data_ptr<int64_t>());
  }
  return ids;
}

std::string refusal(const ClipCopy& copy) {
  return message_of<BadInput>([&] { ClipModel::load(copy.path()); });
}

class ClipParity : public ::testing::TestWithParam<const char*> {
 protected:
  const Golden golden{GetParam()};
  const ClipModel model = ClipModel::load(kData / GetParam());
};

TEST_P(ClipParity, TextFeaturesAreThoseOfTransformers) {
  const int64_t length = model.config().max_positions;
  EXPECT_TRUE(close(model.text_features(input_ids(golden, length, 617)), golden.tensor("text_features"), kParity));
  // What stands behind the end, if lower than the end token, changes nothing; nor do rows beside it.
  EXPECT_TRUE(close(model.text_features(input_ids(golden, length, 5)), golden.tensor("text_features"), kParity));
  const at::Tensor first = tensor::index_tensor(golden.ids(0)).unsqueeze(0);
  EXPECT_TRUE(close(model.text_features(first)[0], golden.tensor("text_features")[0], kParity));
}

TEST_P(ClipParity, ImageFeaturesAreThoseOfTransformers) {
  EXPECT_TRUE(close(model.image_features(golden.tensor("pixel_values")), golden.tensor("image_features"), kParity));
}

TEST_P(ClipParity, LogitsAreThoseOfTransformers) {
  const at::Tensor texts = to_unit_length(model.text_features(input_ids(golden, model.config().max_positions, 617)));
  const at::Tensor images = to_unit_length(model.image_features(golden.tensor("pixel_values")));
  EXPECT_TRUE(close(images.matmul(texts.t()) * model.logit_scale(), golden.tensor("logits_per_image"),
                    2 * kParity));  // cosines times 20
}

TEST_P(ClipParity, TheImageTowerAloneIsTheSame) {
  const ClipModel image = ClipModel::load(kData / GetParam(), ClipModel::Towers::image);
  EXPECT_TRUE(close(image.image_features(golden.tensor("pixel_values")), golden.tensor("image_features"), kParity));
}

INSTANTIATE_TEST_SUITE_P(Tiny, ClipParity, ::testing::ValuesIn(kFolders),
                         [](const auto& parameter) { return std::string(parameter.param); });

TEST(ClipModel, ReadsBfloat16AndComputesInFloat32) {
  const ClipCopy copy;
  copy.change_weights("model.safetensors", [](Tensors& tensors) {
    for (auto& [name, tensor] : tensors) {
      if (tensor.is_floating_point()) tensor = tensor.to(at::kBFloat16);
    }
  });
  const Golden golden("clip_tiny");
  const at::Tensor features = ClipModel::load(copy.path()).image_features(golden.tensor("pixel_values"));
  EXPECT_EQ(features.scalar_type(), at::kFloat);
  EXPECT_TRUE(close(features, golden.tensor("image_features"), 0.3));  // weights of 8 bits
  EXPECT_FALSE(close(features, golden.tensor("image_features"), kParity));
}

TEST(ClipModel, ListsMissingAndLeftOverTensors) {
  const ClipCopy copy;
  copy.change_weights("model.safetensors", [](Tensors& tensors) {
    tensors["logit_bias"] = at::zeros({1});
    tensors.erase("visual_projection.weight");
    tensors.erase("text_model.encoder.layers.1.mlp.fc1.bias");
  });
  const std::string message = refusal(copy);
  EXPECT_NE(message.find("model.safetensors: 2 tensor(s) missing: text_model.encoder.layers.1.mlp.fc1.bias, "
                         "visual_projection.weight; 1 tensor(s) that the config does not ask for: logit_bias"),
            std::string::npos)
      << message;
}

TEST(ClipModel, NamesTheTensorOfAnotherShape) {
  const ClipCopy copy;
  copy.change_json("config.json", [](nlohmann::json& root) { root["vision_config"]["image_size"] = 64; });
  EXPECT_NE(refusal(copy).find(
                "tensor 'vision_model.embeddings.position_embedding.weight' has shape [17, 40], the config asks for "
                "[65, 40]"),
            std::string::npos)
      << refusal(copy);
}

TEST(ClipModel, SaysThatPickledWeightsAreNotRead) {
  const ClipCopy copy;
  std::filesystem::rename(copy.path() / "model.safetensors", copy.path() / "pytorch_model.bin");
  EXPECT_NE(refusal(copy).find("no model.safetensors (or model.safetensors.index.json)"), std::string::npos)
      << refusal(copy);
}

TEST(ClipModel, ChecksShapesWhereTensorsEnter) {
  const ClipModel model = ClipModel::load(kData / "clip_tiny");
  EXPECT_THROW(model.image_features(at::zeros({1, 3, 16, 16})), std::invalid_argument);
  EXPECT_THROW(model.text_features(at::zeros({5}, at::kLong)), std::invalid_argument);
}

}  // namespace
}  // namespace unigrpo::scorers
