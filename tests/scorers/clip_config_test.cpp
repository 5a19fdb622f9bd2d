#include "scorers/clip_config.h"

#include <gtest/gtest.h>

#include "base/error.h"
#include "scorers/clip_tokenizer.h"
#include "scorers/tiny_clip.h"
#include "support/tensors.h"

namespace unigrpo::scorers {
namespace {

using nlohmann::json;
using testing::message_of;

std::string refusal(const std::string& file, const std::function<void(json&)>& change) {
  const ClipCopy copy;
  copy.change_json(file, change);
  return message_of<BadInput>([&] {
    const ClipConfig config = read_clip_config(copy.path());
    read_clip_image_config(copy.path(), config.image_size);
  });
}

void expect_refusal(const std::string& file, const std::function<void(json&)>& change, const std::string& expected) {
  const std::string message = refusal(file, change);
  EXPECT_NE(message.find(file + expected), std::string::npos) << message;
}

TEST(ClipConfig, ReadsSizesActivationAndEndToken) {
  const ClipConfig old = read_clip_config(kData / "clip_tiny");
  EXPECT_EQ(old.text.activation, nn::Activation::quick_gelu);
  EXPECT_EQ(old.vision.activation, nn::Activation::quick_gelu);
  EXPECT_EQ(old.eos_token_id, kLegacyEosTokenId);
  EXPECT_EQ(old.max_positions, 77);
  const ClipConfig late = read_clip_config(kData / "clip_tiny_gelu");
  EXPECT_EQ(late.text.activation, nn::Activation::gelu);
  EXPECT_EQ(late.vision.activation, nn::Activation::gelu);
  EXPECT_EQ(late.eos_token_id, 617);
  EXPECT_EQ(late.projection_dim, 16);
  EXPECT_EQ(late.text.num_layers, 3);
  EXPECT_DOUBLE_EQ(late.text.layer_norm_eps, 1e-3);
  EXPECT_EQ(late.image_size, 28);
}

TEST(ClipConfig, AnEmptyFileMeansTheDefaultsOfTransformers) {
  const testing::TempFolder folder;
  folder.write("config.json", R"({"text_config": null})");
  folder.write("preprocessor_config.json", "{}");
  const ClipConfig config = read_clip_config(folder.path());
  EXPECT_EQ(config.text.hidden_size, 512);
  EXPECT_EQ(config.vision.hidden_size, 768);
  EXPECT_EQ(config.vocab_size, 49408);
  EXPECT_EQ(config.eos_token_id, 49407);
  EXPECT_EQ(config.patch_size, 32);
  EXPECT_EQ(read_clip_image_config(folder.path(), 224).shortest_edge, 224);
}

TEST(ClipConfig, OldFilesSectionsComeFirst) {
  const testing::TempFolder folder;
  folder.write("config.json", R"({"text_config": {"num_hidden_layers": 3}, "vision_config_dict": null,
      "text_config_dict": {"hidden_size": 1024, "num_attention_heads": 16, "hidden_act": "gelu"}})");
  const ClipConfig config = read_clip_config(folder.path());
  EXPECT_EQ(config.text.hidden_size, 1024);
  EXPECT_EQ(config.text.num_layers, 12);
  EXPECT_EQ(config.text.activation, nn::Activation::gelu);
}

TEST(ClipConfig, NamesFileAndKeyOfWhatIsNotSupported) {
  const auto change = [](const char* section, const char* key, json value) {
    return [=](json& root) { root[section][key] = value; };
  };
  expect_refusal(
      "config.json", [](json& root) { root["model_type"] = "siglip"; }, R"(: 'model_type' is "siglip"; only "clip")");
  expect_refusal(
      "config.json", [](json& root) { root["projection_dim"] = -1; }, ": 'projection_dim' must be a positive integer");
  expect_refusal(
      "config.json", [](json& root) { root["vision_config"] = 3; }, ": vision_config: expected a JSON object");
  expect_refusal("config.json", change("text_config", "hidden_act", "relu"), ": text_config: 'hidden_act' must be");
  expect_refusal("config.json", change("text_config", "num_attention_heads", 5),
                 ": text_config: hidden_size 32 must be a multiple");
  expect_refusal("config.json", change("text_config", "max_position_embeddings", 1),
                 ": text_config: 'max_position_embeddings'");
  expect_refusal("config.json", change("vision_config", "patch_size", 7),
                 ": vision_config: image_size 32 must be a multiple");
  expect_refusal("config.json", change("vision_config", "num_channels", 4),
                 ": vision_config: 'num_channels' is 4; only 3");
  expect_refusal("config.json", change("vision_config", "layer_norm_eps", 0),
                 ": vision_config: 'layer_norm_eps' must be a number");
}

// tests/data/clip_tiny_5 is clip_tiny as transformers 5 saves it (tools/make_golden/clip_processor_5.py).
TEST(ClipImageConfig, ReadsAProcessorOfTransformers5) {
  const auto folder = kData / "clip_tiny_5";
  const ClipConfig config = read_clip_config(folder);
  EXPECT_EQ(config.text.hidden_size, read_clip_config(kData / "clip_tiny").text.hidden_size);
  const ClipImageConfig settings = read_clip_image_config(folder, config.image_size);
  const ClipImageConfig wanted = read_clip_image_config(kData / "clip_tiny", 32);
  EXPECT_EQ(settings.shortest_edge, wanted.shortest_edge);
  EXPECT_EQ(settings.crop_size, wanted.crop_size);
  EXPECT_EQ(settings.mean, wanted.mean);
  EXPECT_EQ(settings.std, wanted.std);
  const Golden golden("clip_tiny");
  const ClipTokenizer tokenizer(folder);
  for (size_t i = 0; i < golden.json["texts"].size(); ++i) {
    EXPECT_EQ(tokenizer.encode(golden.text(i), config.max_positions).ids, golden.ids(i)) << golden.text(i);
  }
}

TEST(ClipImageConfig, TheProcessorsOwnSettingsComeFirst) {
  const testing::TempFolder folder;
  folder.write("preprocessor_config.json", R"({"crop_size": 16, "size": 16})");
  folder.write("processor_config.json", R"({"processor_class": "CLIPProcessor"})");  // as transformers 4 writes it
  EXPECT_EQ(read_clip_image_config(folder.path(), 16).crop_size, 16);
  folder.write("processor_config.json", R"({"image_processor": {"crop_size": 8, "size": 8}})");
  EXPECT_EQ(read_clip_image_config(folder.path(), 8).crop_size, 8);
  folder.write("processor_config.json", R"({"image_processor": {"do_rescale": false}})");
  const std::string message = message_of<BadInput>([&] { read_clip_image_config(folder.path(), 8); });
  EXPECT_NE(message.find("processor_config.json: image_processor: 'do_rescale' is false"), std::string::npos)
      << message;
}

TEST(ClipImageConfig, NamesFileAndKeyOfWhatIsNotSupported) {
  const auto change = [](const char* key, json value) { return [=](json& root) { root[key] = value; }; };
  const char* const file = "preprocessor_config.json";
  expect_refusal(file, change("do_center_crop", false), ": 'do_center_crop' is false; only true is supported");
  expect_refusal(file, change("resample", 2), ": 'resample' is 2; only 3 is supported");
  expect_refusal(file, change("size", {{"height", 32}, {"width", 32}}), ": size: 'shortest_edge' is missing");
  expect_refusal(file, change("crop_size", {{"height", 32}, {"width", 30}}),
                 ": crop_size: 'width' is 30; only 32 is supported");
  expect_refusal(file, change("crop_size", 40), ": crop_size 40 is larger than the image, whose shortest side is 32");
  expect_refusal(file, change("crop_size", 30), ": crop_size is 30, but config.json says image_size 32");
  expect_refusal(file, change("image_mean", {0.5, 0.5}), ": 'image_mean' must be three numbers, got [0.5,0.5]");
  expect_refusal(file, change("image_std", {0.5, 0.0, 0.5}), ": 'image_std' must be above 0");
  const ClipCopy copy;
  std::filesystem::remove(copy.path() / file);
  const std::string message = message_of<BadInput>([&] { read_clip_image_config(copy.path(), 32); });
  EXPECT_NE(message.find(file), std::string::npos) << message;
}

}  // namespace
}  // namespace unigrpo::scorers
