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
                                 .cut = {},
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

TEST(GenerationConfig, AClipsSizeIsReadAsItWasWritten) {
  GenerationConfig written;
  written.episode = {data::SegmentKind::av};
  written.clip = {.frames = 9, .height = 64, .width = 96, .fps = 12.5};
  const TempFolder temp;
  temp.write("generation_config.json", to_json(written));
  const GenerationConfig read = read_generation_config(temp.path());
  EXPECT_EQ(read.clip.frames, 9);
  EXPECT_EQ(read.clip.height, 64);
  EXPECT_EQ(read.clip.width, 96);
  EXPECT_EQ(read.clip.fps, 12.5);
  EXPECT_EQ(to_json(read), to_json(written));
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
  EXPECT_EQ(message_of(R"({"num_steps": 0})"), ": 'num_steps' must be 1 to 10000, got 0");
  EXPECT_EQ(message_of(R"({"num_steps": 2.5})"), ": 'num_steps' must be a positive integer, got 2.5");
  EXPECT_EQ(message_of(R"({"image_size": "64"})"), ": 'image_size' must be a positive integer, got \"64\"");
  EXPECT_EQ(message_of(R"({"max_tokens": -1})"), ": 'max_tokens' must be 1 to 1000000, got -1");
  EXPECT_EQ(message_of(R"({"max_tokens": 18446744073709551615})"), ": 'max_tokens' must be 1 to 1000000, got 1000001");
  EXPECT_EQ(message_of(R"({"temperature": 0})"), ": 'temperature' must be above 0, got 0");
  EXPECT_EQ(message_of(R"({"temperature": true})"), ": 'temperature' must be a number, got true");
  EXPECT_EQ(message_of(R"({"cfg_scale": -2})"), ": 'cfg_scale' must be 1 to 100, got -2");
  EXPECT_EQ(message_of(R"({"episode": []})"), ": 'episode' must be a list of \"text\", \"image\" and \"av\"");
  EXPECT_EQ(message_of(R"({"episode": "text"})"), ": 'episode' must be a list of \"text\", \"image\" and \"av\"");
  EXPECT_EQ(message_of(R"({"episode": ["text", "video"]})"),
            ": 'episode' must be a list of \"text\", \"image\" and \"av\", got \"video\"");
  EXPECT_EQ(message_of(R"({"system_prompt": 3})"), ": 'system_prompt' must be a string, got 3");
}

// The ranges are those of the options.
TEST(GenerationConfig, GuidanceThatWouldNeverActIsRefused) {
  for (const char* value : {"[0.9, 0.1]", "[1.5, 7]", "[0.5, 0.5]", "[-0.1, 1]", "[0, 1.01]"}) {
    const std::string what = message_of(R"({"cfg_interval": )" + std::string(value) + "}");
    EXPECT_NE(what.find(": 'cfg_interval' must be [low, high] with 0 <= low < high <= 1, got ["), std::string::npos)
        << what;
  }
  EXPECT_EQ(message_of(R"({"cfg_interval": [0, 1]})"), "nothing");
  EXPECT_EQ(message_of(R"({"cfg_scale": 0.5})"), ": 'cfg_scale' must be 1 to 100, got 0.5");
  EXPECT_EQ(message_of(R"({"cfg_image_scale": 101})"), ": 'cfg_image_scale' must be 1 to 100, got 101");
  EXPECT_EQ(message_of(R"({"cfg_renorm_min": 7})"), ": 'cfg_renorm_min' must be 0 to 1, got 7");
  EXPECT_EQ(message_of(R"({"cfg_renorm_min": -3})"), ": 'cfg_renorm_min' must be 0 to 1, got -3");
  EXPECT_EQ(message_of(R"({"num_steps": 10001})"), ": 'num_steps' must be 1 to 10000, got 10001");
  EXPECT_EQ(message_of(R"({"timestep_shift": -1})"), ": 'timestep_shift' must be above 0, got -1");
}

GenerationConfig read_text(const std::string& json) {
  const TempFolder temp;
  temp.write("generation_config.json", json);
  return read_generation_config(temp.path());
}

TEST(GenerationConfig, GreedyFilesOfOtherToolsAreGreedyHere) {
  for (const char* temperature : {"0", "0.0", "null", "0.7"}) {
    const auto config = read_text(R"({"do_sample": false, "max_new_tokens": 4, "temperature": )" +
                                  std::string(temperature) + R"(, "top_k": 20})");
    EXPECT_TRUE(config.greedy);
    EXPECT_EQ(config.max_tokens, 4);
    EXPECT_EQ(config.temperature, 1.0);
    EXPECT_EQ(to_rollout_config(config).temperature, 0);
    EXPECT_EQ(told_left_out(config, 1), "");  // top_k does not act there either
  }
  const auto both = read_text(R"({"max_tokens": 7, "max_new_tokens": 4, "temperature": null})");
  EXPECT_EQ(both.max_tokens, 7);
  EXPECT_FALSE(both.greedy);
  EXPECT_EQ(message_of(R"({"do_sample": "no"})"), ": 'do_sample' must be true or false, got \"no\"");
  EXPECT_EQ(message_of(R"({"max_new_tokens": 0})"), ": 'max_tokens' must be 1 to 1000000, got 0");
}

TEST(GenerationConfig, WhatOfOtherToolsDoesNotActIsTold) {
  auto qwen = read_text(R"({"bos_token_id": 5, "pad_token_id": 5, "do_sample": true, "eos_token_id": [9, 5],
      "repetition_penalty": 1.05, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "transformers_version": "4.37.0"})");
  EXPECT_EQ(qwen.temperature, 0.7);
  EXPECT_EQ(told_left_out(qwen, 9),
            "generation_config.json: left out, they do not act here: repetition_penalty = 1.05, "
            "eos_token_id = [9,5] (a text ends at token 9 alone)");
  draw_from_all(qwen);  // of a policy that is trained
  EXPECT_FALSE(to_rollout_config(qwen).truncation.any());
  EXPECT_EQ(told_left_out(qwen, 9),
            "generation_config.json: left out, they do not act here: repetition_penalty = 1.05, top_k = 20, "
            "top_p = 0.8, eos_token_id = [9,5] (a text ends at token 9 alone)");
  EXPECT_EQ(told_left_out(read_text(R"({"eos_token_id": 9, "top_p": 1.0, "top_k": 0, "repetition_penalty": 1.0,
      "num_beams": 1, "min_p": null, "use_cache": true, "return_dict_in_generate": true})"),
                          9),
            "");
  EXPECT_NE(told_left_out(read_text(R"({"max_length": 20})"), 9).find("max_length = 20"), std::string::npos);
  EXPECT_EQ(told_left_out(read_text(R"({"max_length": 20, "max_new_tokens": 5})"), 9), "");
  EXPECT_NE(told_left_out(read_text(R"({"program": ["image"]})"), 9).find("program = [\"image\"]"), std::string::npos);
}

TEST(GenerationConfig, WhatLeavesTokensOutIsReadAndWritten) {
  const auto config = read_text(R"({"top_k": 20, "top_p": 0.8, "min_p": 0.1})");
  const rollout::Truncation cut = to_rollout_config(config).truncation;
  EXPECT_EQ(cut.top_k, 20);
  EXPECT_EQ(cut.top_p, 0.8);
  EXPECT_EQ(cut.min_p, 0.1);
  EXPECT_EQ(to_json(read_text(to_json(config))), to_json(config));
  EXPECT_FALSE(to_rollout_config(read_text(R"({"top_k": null, "top_p": 1, "min_p": 0})")).truncation.any());
  EXPECT_FALSE(to_rollout_config(read_text(R"({"do_sample": false, "top_k": 20})")).truncation.any());
  EXPECT_EQ(message_of(R"({"top_k": -1})"), ": 'top_k' must be 0 to 1000000, got -1");
  EXPECT_EQ(message_of(R"({"top_k": 2.5})"), ": 'top_k' must be an integer, got 2.5");
  EXPECT_EQ(message_of(R"({"top_p": 1.5})"), ": 'top_p' must be 0 to 1, got 1.5");
  EXPECT_EQ(message_of(R"({"min_p": -0.5})"), ": 'min_p' must be 0 to 1, got -0.5");
  EXPECT_EQ(message_of(R"({"do_sample": false, "top_p": 1.5})"), "nothing");  // where it does not act
  // A trained policy draws from all, and so does what is written of it.
  const TempFolder temp;
  temp.write("generation_config.json", R"({"top_k": 20, "top_p": 0.8})");
  GenerationConfig trained = read_generation_config(temp.path());
  draw_from_all(trained);
  temp.write("generation_config.json", to_json(trained, temp.path()));
  EXPECT_FALSE(to_rollout_config(read_generation_config(temp.path())).truncation.any());
}

TEST(GenerationConfig, WhatIsWrittenSaysTheSameToOtherTools) {
  const TempFolder temp;
  temp.write("generation_config.json", R"({"do_sample": false, "max_new_tokens": 4, "top_k": 3})");
  GenerationConfig config = read_generation_config(temp.path());
  EXPECT_NE(to_json(config, temp.path()).find("\"do_sample\": false"), std::string::npos);
  config.greedy = false;
  config.max_tokens = 9;
  const std::string written = to_json(config, temp.path());
  EXPECT_NE(written.find("\"do_sample\": true"), std::string::npos) << written;
  EXPECT_NE(written.find("\"max_new_tokens\": 9"), std::string::npos) << written;
  EXPECT_NE(written.find("\"top_k\": 3"), std::string::npos) << written;
}

// The published BAGEL folder as its inference code samples it (inferencer.py of ByteDance-Seed/Bagel).
TEST(GenerationConfig, AFamilyHasItsOwnDefaults) {
  const std::filesystem::path data = UNIGRPO_TEST_DATA;
  const GenerationConfig bagel = read_generation_config(data / "bagel_7b");
  EXPECT_EQ(bagel.image_size, 1024);
  EXPECT_EQ(bagel.timestep_shift, 3.0);
  EXPECT_FALSE(bagel.prompt_given);
  const auto plans = {SegmentKind::text, SegmentKind::image};
  EXPECT_TRUE(
      default_prompt(data / "bagel_7b", plans).starts_with("You should first think about the planning process"));
  EXPECT_EQ(default_prompt(data / "bagel_7b", {SegmentKind::image}), "");
  EXPECT_EQ(default_prompt(data / "bagel_7b", {SegmentKind::image, SegmentKind::text}), "");
  EXPECT_EQ(default_prompt(data / "qwen2_tiny", {SegmentKind::text}), "");
  EXPECT_EQ(read_generation_config(data / "bagel_tiny").image_size, 128);  // its largest square
  EXPECT_EQ(read_generation_config(data / "qwen2_tiny").timestep_shift, 1.0);
  const TempFolder temp;
  std::filesystem::copy_file(data / "bagel_7b/config.json", temp.path() / "config.json");
  temp.write("generation_config.json", R"({"temperature": 0.7, "image_size": 512, "system_prompt": ""})");
  const GenerationConfig told = read_generation_config(temp.path());
  EXPECT_EQ(told.image_size, 512);
  EXPECT_EQ(told.timestep_shift, 3.0);
  EXPECT_TRUE(told.prompt_given);
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
