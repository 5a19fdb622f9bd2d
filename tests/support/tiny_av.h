#pragma once

#include <memory>
#include <string>
#include <vector>

#include "io/safetensors.h"
#include "policy/ltx2/ltx2.h"
#include "rollout/config.h"
#include "support/temp_folder.h"
#include "support/tensors.h"
#include "tensor/convert.h"
#include "tensor/rng.h"

namespace unigrpo::testing {

/// The tiny LTX-2 model as a policy, with made-up features of its prompts: of different lengths, so that one batch has
/// several.
struct TinyAv {
  explicit TinyAv(const std::string& layout = "v20", const std::vector<std::string>& freeze = {}) {
    std::vector<at::Tensor> features;
    std::vector<io::TensorView> views;
    for (size_t i = 0; i < 3; ++i) {
      features.push_back(
          tensor::normal({2 + 3 * static_cast<int64_t>(i), 12, 3}, {.seed = 40, .prompt = static_cast<uint64_t>(i)}));
      views.push_back(tensor::to_view(features.back(), prompt(i)));
    }
    config.text.file = (folder.path() / "features.safetensors").string();
    io::write_safetensors(config.text.file, views);
    config.model = std::string(UNIGRPO_TEST_DATA) + "/ltx2_tiny/" + layout;
    config.freeze = freeze;
    policy = load();
  }
  std::unique_ptr<policy::Ltx2> load() const { return policy::Ltx2::load(config, {}); }
  static std::string prompt(size_t i) { return "clip " + std::to_string(i); }

  TempFolder folder;
  policy::PolicyConfig config;
  std::unique_ptr<policy::Ltx2> policy;
};

/// Four denoising steps of clips of 9 frames of 64 x 64 pixels, two of them stochastic in each stream.
inline rollout::RolloutConfig tiny_av_rollout() {
  rollout::RolloutConfig config;
  config.episode = {data::SegmentKind::av};
  config.num_steps = 4;
  config.window.width = 2;
  config.clip = {.frames = 9, .height = 64, .width = 64, .fps = 24};
  return config;
}

}  // namespace unigrpo::testing
