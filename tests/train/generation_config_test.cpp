#include "train/generation_config.h"

#include <gtest/gtest.h>

#include <string>

#include "base/error.h"
#include "io/atomic_file.h"
#include "support/temp_folder.h"

namespace unigrpo::train {
namespace {

using data::SegmentKind;
using testing::TempFolder;

std::string message_of(const std::string& json) {
  const TempFolder temp;
  const auto file = temp.write("generation_config.json", json);
  try {
    read_generation_config(temp.path());
  } catch (const BadInput& error) {
    const std::string text = error.what();
    EXPECT_TRUE(text.starts_with(file.string())) << text;
    return text.substr(std::min(text.size(), file.string().size()));
  }
  return "nothing";
}

TEST(GenerationConfig, WithoutTheFileTheDefaultsHold) {
  const TempFolder temp;
  const GenerationConfig config = read_generation_config(temp.path());
  EXPECT_EQ(config.episode, (std::vector<SegmentKind>{SegmentKind::text, SegmentKind::image}));
  EXPECT_EQ(config.num_steps, 25);
  EXPECT_EQ(config.guidance.text_scale, 1.0);
}

TEST(GenerationConfig, WhatIsWrittenIsRead) {
  const GenerationConfig written{.episode = {SegmentKind::image, SegmentKind::text},
                                 .image_size = 128,
                                 .num_steps = 7,
                                 .timestep_shift = 3.5,
                                 .max_tokens = 9,
                                 .temperature = 0.25,
                                 .guidance = {.text_scale = 4,
                                              .image_scale = 2,
                                              .renorm = flow::Renorm::text_channel,
                                              .renorm_min = 0.5,
                                              .interval_low = 0.0,
                                              .interval_high = 0.9},
                                 .system_prompt = "plan, then \"draw\""};
  const TempFolder temp;
  temp.write("generation_config.json", to_json(written));
  const GenerationConfig read = read_generation_config(temp.path());
  EXPECT_EQ(to_json(read), to_json(written));
  EXPECT_EQ(read.guidance.image_scale, 2);
  EXPECT_EQ(read.guidance.renorm, flow::Renorm::text_channel);
  EXPECT_EQ(read.guidance.interval_high, 0.9);
  EXPECT_EQ(read.system_prompt, written.system_prompt);
  EXPECT_EQ(read.episode, written.episode);
}

TEST(GenerationConfig, KeysOfOtherToolsArePassedOver) {
  EXPECT_EQ(message_of(R"({"do_sample": true, "eos_token_id": [1, 2], "num_steps": 3})"), "nothing");
}

TEST(GenerationConfig, AModelOfTextAloneWritesAndKeepsTheKeysOfOtherTools) {
  const TempFolder temp;
  temp.write("config.json", R"({"model_type": "qwen2"})");
  EXPECT_EQ(read_generation_config(temp.path()).episode, std::vector<SegmentKind>{SegmentKind::text});
  temp.write("generation_config.json", R"({"eos_token_id": [1, 2], "temperature": 0.7})");
  GenerationConfig config = read_generation_config(temp.path());
  EXPECT_EQ(config.temperature, 0.7);
  EXPECT_EQ(config.episode, std::vector<SegmentKind>{SegmentKind::text});
  config.temperature = 1.0;
  temp.write("generation_config.json", to_json(config, temp.path()));
  const std::string written = io::read_text_file(temp.path() / "generation_config.json");
  EXPECT_NE(written.find("eos_token_id"), std::string::npos) << written;
  EXPECT_EQ(read_generation_config(temp.path()).temperature, 1.0);
}

TEST(GenerationConfig, ErrorsNameFileAndKeyAndWhatWasFound) {
  EXPECT_EQ(message_of("[]"), ": expected a JSON object");
  EXPECT_NE(message_of("{").find("JSON"), std::string::npos);
  EXPECT_EQ(message_of(R"({"num_steps": 0})"), ": 'num_steps' must be 1 to 1e6, got 0");
  EXPECT_EQ(message_of(R"({"num_steps": 2.5})"), ": 'num_steps' must be a positive integer, got 2.5");
  EXPECT_EQ(message_of(R"({"image_size": "64"})"), ": 'image_size' must be a positive integer, got \"64\"");
  EXPECT_EQ(message_of(R"({"max_tokens": -1})"), ": 'max_tokens' must be 1 to 1e6, got -1");
  EXPECT_EQ(message_of(R"({"max_tokens": 18446744073709551615})"),
            ": 'max_tokens' must be 1 to 1e6, got 18446744073709551615");
  EXPECT_EQ(message_of(R"({"temperature": 0})"), ": 'temperature' must be above 0, got 0");
  EXPECT_EQ(message_of(R"({"temperature": true})"), ": 'temperature' must be a number, got true");
  EXPECT_EQ(message_of(R"({"cfg_scale": -2})"), ": 'cfg_scale' must be above 0, got -2");
  EXPECT_EQ(message_of(R"({"episode": []})"), ": 'episode' must be a list of \"text\" and \"image\"");
  EXPECT_EQ(message_of(R"({"episode": "text"})"), ": 'episode' must be a list of \"text\" and \"image\"");
  EXPECT_EQ(message_of(R"({"episode": ["text", "video"]})"),
            ": 'episode' must be a list of \"text\" and \"image\", got \"video\"");
  EXPECT_EQ(message_of(R"({"system_prompt": 3})"), ": 'system_prompt' must be a string, got 3");
}

TEST(GenerationConfig, RolloutsForSamplingHaveTheSameSettings) {
  GenerationConfig config;
  config.num_steps = 6;
  config.timestep_shift = 2;
  config.max_tokens = 3;
  config.temperature = 0.5;
  config.episode = {SegmentKind::image};
  const rollout::RolloutConfig settings = to_rollout_config(config);
  EXPECT_EQ(settings.num_steps, 6);
  EXPECT_EQ(settings.timestep_shift, 2);
  EXPECT_EQ(settings.max_tokens, 3);
  EXPECT_EQ(settings.temperature, 0.5);
  EXPECT_EQ(settings.episode, config.episode);
}

}  // namespace
}  // namespace unigrpo::train
