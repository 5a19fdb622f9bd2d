#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "io/safetensors.h"
#include "policy/ltx2/model.h"
#include "tensor/convert.h"

namespace unigrpo::testing {

/// A folder of tests/data/ltx2_tiny (v20, v23, v25) with what diffusers computes on it.
struct TinyLtx2 {
  explicit TinyLtx2(const std::string& layout, const policy::ltx2::LoadOptions& options = {})
      : folder(std::filesystem::path(UNIGRPO_TEST_DATA) / "ltx2_tiny" / layout),
        model(policy::ltx2::Model::load(folder, options)),
        goldens(folder / "golden.safetensors") {}

  at::Tensor golden(const std::string& name) const { return tensor::to_tensor(*goldens.find(name), at::kFloat); }
  /// The inputs of all velocity cases, at these timesteps.
  policy::ltx2::TransformerInputs inputs(std::vector<double> video, std::vector<double> audio) const {
    return {.latents = {.video = golden("in.video"), .audio = golden("in.audio")},
            .text = {.video = golden("in.text_video"), .audio = golden("in.text_audio")},
            .text_mask = golden("in.text_mask"),
            .timestep = {.video = at::tensor(video, at::kFloat), .audio = at::tensor(audio, at::kFloat)}};
  }

  std::filesystem::path folder;
  std::unique_ptr<policy::ltx2::Model> model;
  io::SafetensorsFile goldens;
};

/// The clip of v20 and v23.
inline constexpr policy::ltx2::ClipGrid kTinyClip{
    .frames = 3, .height = 2, .width = 4, .audio_frames = 18, .fps = 24.0};

}  // namespace unigrpo::testing
