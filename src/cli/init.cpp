#include <ATen/ATen.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>

#include "base/error.h"
#include "cli/commands.h"
#include "io/safetensors.h"
#include "policy/initial_weight.h"
#include "policy/load.h"
#include "tensor/convert.h"

namespace unigrpo::cli {
namespace {

namespace fs = std::filesystem;

struct Options {
  std::string configs, out;
  bool float32 = false;
  uint64_t seed = 0;
};

void write_weights(const fs::path& file, const NamedTensors& tensors) {
  std::vector<io::TensorView> views;
  for (const NamedTensor& tensor : tensors) views.push_back(tensor::to_view(tensor.tensor, tensor.name));
  io::write_safetensors(file, views, {{"format", "pt"}});
}

int run_init(const Options& options) {
  const fs::path source = options.configs, out = options.out;
  const policy::ModelSizes sizes = policy::read_sizes(source);
  if (policy::find_weights(source, sizes.family))
    throw BadInput("--configs: {} holds weights already", source.string());
  if (fs::exists(out) && !(fs::is_directory(out) && fs::is_empty(out))) {
    throw BadInput("--out: {} exists and is not empty", out.string());
  }
  const std::string prefix = "autoencoder.";
  NamedTensors model, autoencoder;
  double bytes = 0;
  for (const NamedTensor& shape : sizes.shapes) {
    const bool of_autoencoder = shape.name.starts_with(prefix);
    const at::Tensor fresh = policy::initial_weight(sizes.llm, shape.name, shape.tensor.sizes().vec(), options.seed);
    const at::Tensor weight = fresh.to(options.float32 ? at::kFloat : at::kBFloat16).contiguous();
    bytes += static_cast<double>(weight.nbytes());
    (of_autoencoder ? autoencoder : model)
        .push_back({of_autoencoder ? shape.name.substr(prefix.size()) : shape.name, weight});
  }
  fs::create_directories(out);
  for (const auto& entry : fs::directory_iterator(source)) {
    if (entry.is_regular_file()) fs::copy_file(entry.path(), out / entry.path().filename());
  }
  if (sizes.bagel) write_weights(out / "ae.safetensors", autoencoder);
  write_weights(out / policy::weights_file(sizes.family), model);  // last: a folder with it is complete
  std::printf("%s: %zu tensors, %.2f GB\n", out.c_str(), model.size() + autoencoder.size(), bytes / 1e9);
  return 0;
}

}  // namespace

Run declare_init(CLI::App& app) {
  const auto options = std::make_shared<Options>();
  app.add_option("--configs", options->configs, "Folder with the config files and a tokenizer, without weights")
      ->required();
  app.add_option("--out", options->out, "Model folder to write")->required();
  app.add_flag("--float32", options->float32, "Instead of bf16");
  app.add_option("--seed", options->seed, "Of the weights (default 0)");
  return [options] { return run_init(*options); };
}

}  // namespace unigrpo::cli
