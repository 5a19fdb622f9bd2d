#include "checkpoint/export_ltx2.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "checkpoint/write_weights.h"
#include "io/atomic_file.h"
#include "io/model_folder.h"
#include "io/safetensors.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr const char* kStem = "diffusion_pytorch_model";

/// The files of a folder, and of the folders in it.
void copy_folder(const fs::path& from, const fs::path& to, StopToken stop) {
  fs::create_directories(to);
  for (const auto& entry : fs::directory_iterator(from)) {
    stop.throw_if_requested();
    if (entry.is_directory()) copy_folder(entry.path(), to / entry.path().filename(), stop);
    if (entry.is_regular_file()) io::copy_file_atomic(entry.path(), to / entry.path().filename());
  }
}

void write_part(const policy::ltx2::Model& model, const policy::ltx2::Model::Part& part, const fs::path& to,
                const ExportLtx2Options& options) {
  const fs::path from = model.folder() / part.name;
  fs::create_directory(to);
  io::copy_file_atomic(from / "config.json", to / "config.json");
  const auto file = io::find_weights(from, std::string(kStem) + ".safetensors");
  std::optional<io::Checkpoint> source;
  if (file) source = io::Checkpoint::open(*file);
  const auto fresh = options.fresh_dtypes.find(part.name);
  std::vector<at::Tensor> owned;
  std::vector<io::TensorView> views;
  for (const NamedTensor& weight : part.tensors) {
    options.stop.throw_if_requested();
    const at::ScalarType held = weight.tensor.scalar_type();
    at::ScalarType type = fresh == options.fresh_dtypes.end() ? held : fresh->second;
    if (source) type = tensor::to_scalar_type(source->find(weight.name)->dtype);
    if (c10::elementSize(held) < c10::elementSize(type)) type = held;
    owned.push_back(weight.tensor.detach().to(at::kCPU, type).contiguous());
    views.push_back(tensor::to_view(owned.back(), weight.name));
  }
  std::map<std::string, std::string> metadata = source ? source->metadata() : std::map<std::string, std::string>();
  metadata.emplace("format", "pt");  // what diffusers writes
  write_weights(to, views,
                {.name = std::string(kStem) + ".safetensors",
                 .shards = kStem,
                 .shard_bytes = options.shard_bytes,
                 .metadata = metadata,
                 .stop = options.stop});
}

void write_text_encoder(const NamedTensors& weights, const fs::path& to) {
  NamedTensors owned;
  std::vector<io::TensorView> views;
  for (const NamedTensor& weight : weights) {
    owned.push_back({weight.name, weight.tensor.detach().to(at::kCPU).contiguous()});
    views.push_back(tensor::to_view(owned.back().tensor, weight.name));
  }
  io::write_safetensors(to / "model.safetensors", views, {{"format", "pt"}});
}

}  // namespace

void copy_around_transformer(const fs::path& source, const fs::path& folder, StopToken stop) {
  io::copy_file_atomic(source / "model_index.json", folder / "model_index.json");
  std::map<std::string, std::string> parts = policy::ltx2::read_model_index(source);
  if (fs::exists(source / "latent_upsampler")) parts.emplace("latent_upsampler", "");  // of no index
  for (const auto& [name, type] : parts) {
    if (name != "transformer") copy_folder(source / name, folder / name, stop);
  }
  fs::create_directory(folder / "transformer");
  io::copy_file_atomic(source / "transformer" / "config.json", folder / "transformer" / "config.json");
}

void export_ltx2(const policy::ltx2::Model& model, const fs::path& destination, const ExportLtx2Options& options) {
  build_folder(destination, [&](const fs::path& folder) {
    io::copy_file_atomic(model.folder() / "model_index.json", folder / "model_index.json");
    if (fs::exists(model.folder() / io::kGenerationConfig)) {
      io::copy_file_atomic(model.folder() / io::kGenerationConfig, folder / io::kGenerationConfig);
    }
    for (const auto& part : model.parts()) write_part(model, part, folder / part.name, options);
    for (const auto& [name, type] : model.index()) {
      if (!fs::exists(folder / name)) copy_folder(model.folder() / name, folder / name, options.stop);
    }
    if (!options.text_encoder.empty()) write_text_encoder(options.text_encoder, folder / "text_encoder");
  });
}

}  // namespace unigrpo::checkpoint
