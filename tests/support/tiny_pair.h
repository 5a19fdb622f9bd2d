#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "policy/paired/paired.h"
#include "support/temp_folder.h"
#include "support/tiny_bagel.h"

namespace unigrpo::testing {

/// A folder with a pair: tests/data/qwen2_tiny writes, tests/data/bagel_tiny draws (links to them).
class PairFolder {
 public:
  PairFolder() {
    const std::filesystem::path data = UNIGRPO_TEST_DATA;
    folder_.write("config.json", R"({"model_type": "unigrpo_pair", "text": "text/", "image": "image/"})");
    std::filesystem::create_directory_symlink(data / "qwen2_tiny", path() / "text");
    std::filesystem::create_directory_symlink(data / "bagel_tiny", path() / "image");
  }
  const std::filesystem::path& path() const { return folder_.path(); }

  policy::PolicyConfig config(policy::TrainMode train = policy::TrainMode::full) const {
    policy::PolicyConfig config;
    config.model = path().string();
    config.train = train;
    config.lora.rank = 4;
    config.lora.alpha = 8;
    return config;
  }
  std::unique_ptr<policy::Paired> load(policy::TrainMode train = policy::TrainMode::full) const {
    return policy::Paired::load(config(train), {.seed = 5});
  }

 private:
  TempFolder folder_;
};

/// Turns the end token's row of the text model's lm_head so that many a sampled token ends its text.
inline void make_texts_end(policy::Paired& model) {
  const at::NoGradGuard no_grad;
  policy::TrainBatch batch{.prefixes = {{}}, .sequences = {{}}};
  std::vector<int64_t> ids = {model.bos_id()};
  for (int64_t i = 3; i < 60; ++i) ids.push_back(i * 6);
  batch.sequences[0].blocks.push_back(policy::TextBlock{ids});
  const at::Tensor mean = model.forward_train(batch).text_hidden.mean(0);
  parameter(model, "text.lm_head.weight")[model.eos_id()].copy_(mean * (2.5 / mean.square().sum().item<double>()));
}

}  // namespace unigrpo::testing
