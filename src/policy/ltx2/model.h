#pragma once

#include <ATen/core/ScalarType.h>
#include <c10/core/Device.h>

#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "flow/shifted_grid.h"
#include "policy/ltx2/connectors.h"
#include "policy/ltx2/transformer.h"
#include "tensor/named_tensor.h"
#include "video/audio_vae.h"
#include "video/latent_upsampler.h"
#include "video/video_vae.h"
#include "video/vocoder.h"

namespace unigrpo::policy::ltx2 {

/// model_index.json of a diffusers pipeline: component to class; those that are null are left out.
std::map<std::string, std::string> read_model_index(const std::filesystem::path& folder);

/// scheduler_config.json of class FlowMatchEulerDiscreteScheduler. Throws BadInput naming file and key.
flow::ShiftedGrid read_scheduler_config(const std::filesystem::path& file);

struct LoadOptions {
  at::ScalarType dtype = at::kFloat;        // of transformer and connectors
  at::ScalarType tower_dtype = at::kFloat;  // of autoencoders, vocoder and upsampler
  c10::Device device = c10::kCPU;
  std::optional<uint64_t> fresh = {};  // the seed of new weights, for components whose folders hold a config alone
};

/// LTX-2 in its diffusers folder: model_index.json and a folder a component, each with config.json and
/// diffusion_pytorch_model.safetensors or its shards. A text encoder of the folder is not opened (policy/ltx2/text.h).
class Model {
 public:
  /// Throws BadInput naming file and key or tensor: a class that is not LTX-2's, a component that is missing, one whose
  /// sizes do not fit the others'.
  static std::unique_ptr<Model> load(const std::filesystem::path& folder, const LoadOptions& options = {});

  const std::filesystem::path& folder() const { return folder_; }
  const std::map<std::string, std::string>& index() const { return index_; }
  const flow::ShiftedGrid& grid() const { return grid_; }
  const Transformer& transformer() const { return *transformer_; }
  const Connectors& connectors() const { return *connectors_; }
  const video::VideoVae& vae() const { return *vae_; }
  const video::AudioVae& audio_vae() const { return *audio_vae_; }
  const video::Vocoder& vocoder() const { return *vocoder_; }
  const video::LatentUpsampler* upsampler() const { return upsampler_ ? &*upsampler_ : nullptr; }

  /// A component's weights by official name: the very tensors that it computes with.
  struct Part {
    std::string name;  // its folder's
    NamedTensors tensors;
  };
  const std::vector<Part>& parts() const { return parts_; }
  const NamedTensors& part(const std::string& name) const;

 private:
  Model() = default;
  template <typename Network, typename Config>
  void open(const std::string& part, const Config& config, at::ScalarType dtype, const LoadOptions& options,
            std::optional<Network>& network);
  void check_fit() const;

  std::filesystem::path folder_;
  std::map<std::string, std::string> index_;
  flow::ShiftedGrid grid_;
  std::optional<Transformer> transformer_;
  std::optional<Connectors> connectors_;
  std::optional<video::VideoVae> vae_;
  std::optional<video::AudioVae> audio_vae_;
  std::optional<video::Vocoder> vocoder_;
  std::optional<video::LatentUpsampler> upsampler_;
  std::vector<Part> parts_;
};

}  // namespace unigrpo::policy::ltx2
