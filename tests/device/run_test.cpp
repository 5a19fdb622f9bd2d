// A whole run whose policy lies on a device: what it samples and learns is what the CPU's run does.
#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "io/image_codec.h"
#include "recipe/parse.h"
#include "support/pretend_device.h"
#include "support/temp_folder.h"
#include "tensor/device.h"
#include "train/trainer.h"

namespace unigrpo::train {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::any_device;

constexpr const char* kRecipe = R"(
[run]
num_steps = 2
threads = 1
[policy]
model = "MODEL"
[data]
prompts = "FOLDER/prompts.jsonl"
[rollout]
num_steps = 4
max_tokens = 6
image_size = 64
[rollout.window]
width = 2
[grpo]
prompts_per_step = 2
group_size = 3
[[rewards]]
kind = "saturation"
[optim]
lr = 1e-3
eps = 1e-3
[monitor]
sample_every = 1
num_samples = 6
tensorboard = false
report = false
[monitor.drift]
enabled = false
)";

constexpr const char* kSftRecipe = R"(
[run]
num_steps = 2
threads = 1
[policy]
model = "MODEL"
[data]
prompts = "FOLDER/rows.jsonl"
[rollout]
num_steps = 3
max_tokens = 6
[sft]
output = "FOLDER/trained"
batch_size = 3
timesteps_per_image = 2
prompt_dropout = 0.2
[optim]
lr = 1e-3
eps = 1e-3
[monitor]
report = false
tensorboard = false
)";

constexpr const char* kRows =
    R"({"prompt": "a red square", "target": [{"type": "text", "text": "one square"}, {"type": "image", "path": "a.png"}]}
{"prompt": "two turns", "target": [{"type": "image", "path": "a.png"}, {"type": "text", "text": "again"}]}
{"prompt": "what is it?", "images": ["a.png"], "target": [{"type": "text", "text": "a square"}]}
)";

constexpr const char* kPrompts = R"({"prompt": "a red circle"}
{"prompt": "two squares"}
{"prompt": "a star"}
)";

/// eps is large: with a small one AdamW's first step moves a weight by the whole rate whichever way a gradient of
/// almost 0 points.
struct Result {
  std::vector<json> metrics, samples;
  testing::DeviceCopies copies;
  std::string weights;  // the bytes of EMA's, where there is one
};

Image gradient() {
  Image image{.width = 64, .height = 64, .pixels = {}};
  for (int i = 0; i < 64 * 64 * 3; ++i) image.pixels.push_back(static_cast<uint8_t>(i % 251));
  return image;
}

std::vector<json> lines_of(const fs::path& file) {
  std::vector<json> rows;
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) rows.push_back(json::parse(line));
  return rows;
}

/// A run of `recipe` in a folder of its own, whose path stands for FOLDER; MODEL and WORLD: the
/// embedded ones. `overrides` as --set takes them.
Result run_on(c10::Device device, recipe::Command command, std::string text, std::vector<std::string> overrides) {
  const testing::TempFolder folder;
  folder.write("prompts.jsonl", kPrompts);
  folder.write("rows.jsonl", kRows);
  io::write_png(folder.path() / "a.png", gradient());
  auto fill = [&](std::string& in) {
    for (const auto& [name, value] : {std::pair<std::string, std::string>{"FOLDER", folder.path().string()},
                                      {"MODEL", UNIGRPO_TEST_DATA "/bagel_tiny"},
                                      {"WORLD", UNIGRPO_SOURCE_DIR "/assets/shapes-world"}}) {
      for (size_t at = in.find(name); at != std::string::npos; at = in.find(name)) in.replace(at, name.size(), value);
    }
  };
  fill(text);
  for (std::string& one : overrides) fill(one);
  overrides.push_back("run.dir=\"" + (folder.path() / "run").string() + "\"");
  const auto recipe = recipe::parse(folder.write("tiny.toml", text), overrides, command);
  const testing::DeviceCopies before = testing::device_copies();
  const Runtime runtime{.device = device, .seed = 5, .threads = 1};
  EXPECT_EQ(run_training(recipe, command, runtime, /*resume=*/false, {}), ExitCode::done);
  const testing::DeviceCopies after = testing::device_copies();
  Result result{.metrics = lines_of(folder.path() / "run/metrics.jsonl"),
                .samples = {},
                .copies = {after.to_device - before.to_device, after.to_host - before.to_host},
                .weights = {}};
  const std::string last = "step_00000" + std::to_string(result.metrics.size());
  result.samples = lines_of(folder.path() / "run/samples" / last / "samples.jsonl");
  std::ifstream weights(folder.path() / "run/final/ema.safetensors", std::ios::binary);
  result.weights.assign(std::istreambuf_iterator<char>(weights), {});
  return result;
}

bool is_steady(const std::string& name) {
  return !name.starts_with("time/") && !name.starts_with("throughput/") && !name.starts_with("memory/") &&
         !name.ends_with("log_prob_diff");
}

/// `slack`: what an image that the model has read again adds, since a pixel of it may be rounded the other way.
void expect_same(const Result& got, const Result& want, double slack) {
  ASSERT_EQ(got.metrics.size(), want.metrics.size());
  for (size_t step = 0; step < want.metrics.size(); ++step) {
    for (const auto& [name, value] : want.metrics[step].items()) {
      if (!is_steady(name) || !value.is_number()) continue;
      ASSERT_TRUE(got.metrics[step].contains(name)) << name;
      const double expected = value.get<double>();
      EXPECT_NEAR(got.metrics[step][name].get<double>(), expected, slack * (1e-5 + 1e-4 * std::abs(expected)))
          << name << " of step " << step;
    }
  }
  ASSERT_EQ(got.samples.size(), want.samples.size());
  for (size_t i = 0; i < want.samples.size(); ++i) {
    EXPECT_EQ(got.samples[i]["segments"], want.samples[i]["segments"]) << i;  // the same token ids give the same texts
  }
}

struct Kind {
  std::vector<std::string> overrides;
  double slack = 1;
  recipe::Command command = recipe::Command::train;
  const char* text = kRecipe;
};

void PrintTo(const Kind& kind, std::ostream* out) {
  for (const std::string& text : kind.overrides) *out << text << ' ';
}

class RunOnDevice : public ::testing::TestWithParam<Kind> {};

TEST_P(RunOnDevice, SamplesAndLearnsAsTheCpuDoes) {
  const Kind& kind = GetParam();
  expect_same(run_on(any_device(), kind.command, kind.text, kind.overrides),
              run_on(at::kCPU, kind.command, kind.text, kind.overrides),
              any_device().is_cuda() ? 10 * kind.slack : kind.slack);
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, RunOnDevice,
    ::testing::Values(
        Kind{{}}, Kind{{"policy.train=lora", "policy.lora.rank=4"}}, Kind{{"rollout.rollout_cfg_scale=2.0"}},
        Kind{{"rollout.episode=[\"text\",\"image\",\"text\",\"image\"]", "run.num_steps=1"}, 100},
        Kind{{"optim.ema.enabled=true", "policy.recompute=true"}},
        Kind{{"sft.stage=joint"}, 1, recipe::Command::sft, kSftRecipe},
        Kind{{"sft.stage=autoencoder", "data.prompts=\"WORLD/train.jsonl\""}, 1, recipe::Command::sft, kSftRecipe}));

TEST(RunOnDevice, DeterministicRunsGiveTheSameBytes) {
  struct Ordered {  // what has no ordered form throws
    Ordered() {
      tensor::set_precision(/*deterministic=*/true);
      at::globalContext().setDeterministicFillUninitializedMemory(any_device().is_cuda());  // not on the pretend one
    }
    ~Ordered() {
      at::globalContext().setDeterministicAlgorithms(false, false);
      at::globalContext().setDeterministicFillUninitializedMemory(true);
    }
  } ordered;
  const Result one = run_on(any_device(), recipe::Command::train, kRecipe, {"optim.ema.enabled=true"});
  const Result two = run_on(any_device(), recipe::Command::train, kRecipe, {"optim.ema.enabled=true"});
  EXPECT_FALSE(one.weights.empty());
  EXPECT_TRUE(one.weights == two.weights);
  EXPECT_EQ(one.samples, two.samples);
}

TEST(RunOnDevice, CopiesWhatIsCountedHereAndNoMore) {
  if (any_device().is_cuda()) GTEST_SKIP() << "copies are counted on the pretend device";
  const testing::DeviceCopies copies = run_on(any_device(), recipe::Command::train, kRecipe, {}).copies;
  EXPECT_EQ(copies.to_device, 707);  // weights, a token's step, an image's noise, micro-batches
  EXPECT_EQ(copies.to_host, 554);    // actions, images, losses, and the checkpoint
}

}  // namespace
}  // namespace unigrpo::train
