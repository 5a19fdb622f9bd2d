#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <string>

#include "io/safetensors.h"
#include "nn/weights.h"
#include "tensor/convert.h"

namespace unigrpo::testing {

inline std::filesystem::path ltx2_folder(const std::string& layout) {
  return std::filesystem::path(UNIGRPO_TEST_DATA) / "ltx2_tiny" / layout;
}

inline at::Tensor ltx2_golden(const std::string& layout, const std::string& name) {
  const io::SafetensorsFile file(ltx2_folder(layout) / "golden.safetensors");
  return tensor::to_tensor(*file.find(name), at::kFloat);
}

/// A tower of tests/data/ltx2_tiny with its weights: Network(read(config.json), weights).
template <typename Network, typename Read>
Network ltx2_tower(const std::string& layout, const std::string& part, const Read& read) {
  const auto folder = ltx2_folder(layout) / part;
  nn::Weights weights = nn::open_weights(folder / "diffusion_pytorch_model.safetensors", at::kFloat);
  Network network(read(folder / "config.json"), weights);
  weights.finish();
  return network;
}

}  // namespace unigrpo::testing
