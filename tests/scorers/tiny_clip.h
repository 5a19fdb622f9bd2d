#pragma once

#include <ATen/ATen.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/sample.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "support/temp_folder.h"
#include "tensor/convert.h"

namespace unigrpo::scorers {

inline const std::filesystem::path kData = UNIGRPO_TEST_DATA;
inline const char* const kFolders[] = {"clip_tiny", "clip_tiny_gelu"};

/// What transformers computed on one of the tiny checkpoints.
struct Golden {
  explicit Golden(const std::string& name)
      : file(kData / name / "golden.safetensors"), json(io::read_json_file(kData / name / "golden.json")) {
    for (size_t i = 0; file.find("image." + std::to_string(i)) != nullptr; ++i) {
      const io::TensorView& view = *file.find("image." + std::to_string(i));
      Image image{.width = static_cast<int>(view.shape[1]), .height = static_cast<int>(view.shape[0]), .pixels = {}};
      image.pixels.resize(view.bytes.size());
      std::memcpy(image.pixels.data(), view.bytes.data(), view.bytes.size());
      images.push_back(std::move(image));
    }
  }
  at::Tensor tensor(const std::string& name) const { return tensor::to_tensor(*file.find(name)); }
  std::string text(size_t i) const { return json["texts"][i]; }
  std::vector<int64_t> ids(size_t i) const { return json["input_ids"][i]; }

  io::SafetensorsFile file;
  nlohmann::json json;  // texts, input_ids; text_features and logits_per_image are of the first texts
  std::vector<Image> images;
};

inline std::vector<const Image*> pointers(const std::vector<Image>& images) {
  std::vector<const Image*> result;
  for (const Image& image : images) result.push_back(&image);
  return result;
}

inline data::Sample sample_of(const std::string& prompt, const Image& image) {
  data::Sample sample;
  sample.prompt = prompt;
  sample.segments.push_back({.kind = data::SegmentKind::image, .text = "", .image = image});
  return sample;
}

/// A copy of a tiny checkpoint's files that a test may spoil.
struct ClipCopy {
  explicit ClipCopy(const std::string& name = "clip_tiny") {
    std::filesystem::copy(kData / name, folder.path(), std::filesystem::copy_options::recursive);
  }
  const std::filesystem::path& path() const { return folder.path(); }

  void change_json(const std::string& file, const std::function<void(nlohmann::json&)>& change) const {
    nlohmann::json root = io::read_json_file(path() / file);
    change(root);
    folder.write(file, root.dump());
  }

  void change_weights(const std::string& file,
                      const std::function<void(std::map<std::string, at::Tensor>&)>& change) const {
    std::map<std::string, at::Tensor> tensors;
    {
      const io::SafetensorsFile source(path() / file);
      for (const io::TensorView& view : source.tensors()) tensors.emplace(view.name, tensor::to_tensor(view));
    }
    change(tensors);
    std::vector<io::TensorView> views;
    for (const auto& [name, tensor] : tensors) views.push_back(tensor::to_view(tensor, name));
    io::write_safetensors(path() / file, views);
  }

  testing::TempFolder folder;
};

}  // namespace unigrpo::scorers
