#include <ATen/ATen.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "base/error.h"
#include "base/text.h"
#include "cli/model_commands.h"
#include "io/model_folder.h"
#include "io/safetensors.h"
#include "policy/initial_weight.h"
#include "policy/load.h"
#include "tensor/convert.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;

void write_weights(const fs::path& file, const NamedTensors& tensors) {
  std::vector<io::TensorView> views;
  for (const NamedTensor& tensor : tensors) views.push_back(tensor::to_view(tensor.tensor, tensor.name));
  io::write_safetensors(file, views, {{"format", "pt"}});
}

}  // namespace

int run(const InitOptions& options) {
  const fs::path source = options.configs, out = options.out;
  const policy::ModelSizes sizes = policy::read_sizes(source);
  if (io::find_weights(source, sizes.family->weights_file))
    throw BadInput("--configs: {} holds weights already", source.string());
  if (fs::exists(out) && !(fs::is_directory(out) && fs::is_empty(out))) {
    throw BadInput("--out: {} exists and is not empty", out.string());
  }
  const std::string prefix = "autoencoder.";
  NamedTensors model, autoencoder;
  uint64_t bytes = 0;
  for (const NamedTensor& shape : sizes.shapes) {
    const bool of_autoencoder = shape.name.starts_with(prefix);
    const at::Tensor fresh = policy::initial_weight(sizes.llm, shape.name, shape.tensor.sizes().vec(), options.seed);
    const at::Tensor weight = fresh.to(options.float32 ? at::kFloat : at::kBFloat16).contiguous();
    bytes += weight.nbytes();
    (of_autoencoder ? autoencoder : model)
        .push_back({of_autoencoder ? shape.name.substr(prefix.size()) : shape.name, weight});
  }
  fs::create_directories(out);
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.is_regular_file()) fs::copy_file(entry.path(), out / entry.path().filename());
  }
  if (!autoencoder.empty()) write_weights(out / "ae.safetensors", autoencoder);
  write_weights(out / sizes.family->weights_file, model);  // last: a folder with it is complete
  std::printf("%s: %zu tensors, %s\n", out.c_str(), model.size() + autoencoder.size(), human_bytes(bytes).c_str());
  return 0;
}

}  // namespace unigrpo::cli
