#include <ATen/ATen.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "checkpoint/build_folder.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "monitor/monitor.h"
#include "monitor/run_folder.h"
#include "optim/adamw.h"
#include "optim/grad_clip.h"
#include "optim/schedule.h"
#include "policy/bagel.h"
#include "policy/initial_weight.h"
#include "tensor/convert.h"
#include "tensor/rng.h"
#include "train/sft_data.h"
#include "train/sft_stages.h"

namespace unigrpo::train {
namespace {

std::vector<Image> render_batch(const ShapesExamples& examples, int64_t first, int64_t count) {
  std::vector<Image> images;
  for (int64_t i = 0; i < count; ++i) images.push_back(data::shapes::render(examples.draw_world(first + i).scene));
  return images;
}

/// config.json with the latents' measured shift and scale: (mean - shift) * scale has mean 0 and std 1.
std::string config_with_scale(const std::filesystem::path& file, double shift, double scale) {
  auto config = nlohmann::ordered_json::parse(io::read_text_file(file));
  config["vae_config"]["shift_factor"] = shift;
  config["vae_config"]["scale_factor"] = scale;
  return config.dump(2) + "\n";
}

/// The source's files, with config.json replaced and the weights in bf16.
void write_autoencoder_folder(const std::filesystem::path& source, const std::filesystem::path& folder,
                              const NamedTensors& parameters, const std::string& config) {
  for (const auto& entry : std::filesystem::directory_iterator(source)) {
    const auto name = entry.path().filename();
    if (entry.is_regular_file() && name != "ae.safetensors" && name != "config.json") {
      std::filesystem::copy_file(entry.path(), folder / name);
    }
  }
  NamedTensors stored;
  for (const NamedTensor& named : parameters) {
    stored.push_back({named.name, named.tensor.detach().to(at::kBFloat16).contiguous()});
  }
  std::vector<io::TensorView> views;
  for (const NamedTensor& named : stored) views.push_back(tensor::to_view(named.tensor, named.name));
  io::write_safetensors(folder / "ae.safetensors", views, {{"format", "pt"}});
  io::write_file_atomic(folder / "config.json", config);
}

}  // namespace

// Loss of a variational autoencoder on pixels in [-1, 1]:
//
//   L = mean |x - decode(z)| + mean (x - decode(z))^2 + kl_weight * mean_latents KL(N(mean, e^logvar) || N(0, 1))
//   z = mean + exp(logvar / 2) n,    KL = (mean^2 + e^logvar - 1 - logvar) / 2
void train_autoencoder(const recipe::Recipe& recipe, monitor::Monitor& monitor) {
  const std::filesystem::path source = recipe.policy.model;
  const policy::BagelConfig sizes = policy::read_bagel_config(source);
  const auto seed = static_cast<uint64_t>(recipe.run.seed);
  nn::Weights weights(source.string(), [&](const std::string& name, const std::vector<int64_t>& shape) {
    return policy::initial_weight(sizes.llm, name, shape, seed);
  });
  const policy::Autoencoder autoencoder(sizes.vae, weights);
  NamedTensors parameters;
  for (const auto& [name, tensor] : weights.tensors()) {
    tensor.requires_grad_(true);
    parameters.push_back({name, tensor});
  }
  optim::AdamW optimizer(recipe.optim, parameters);
  optim::GradClip clip(recipe.optim);
  const ShapesExamples examples(recipe.data.prompts, {}, seed);
  const int64_t batch = recipe.sft.batch_size;
  for (int64_t step = 0; step < recipe.run.num_steps; ++step) {
    const auto start = std::chrono::steady_clock::now();
    monitor.phase("update");
    const at::Tensor pixels = policy::to_pixels(render_batch(examples, step * batch, batch));
    const auto posterior = autoencoder.posterior(pixels);
    const at::Tensor noise = tensor::normal(
        posterior.mean.sizes(), {.seed = seed, .step = static_cast<uint64_t>(step), .purpose = Purpose::vae_posterior});
    const at::Tensor z = posterior.mean + (0.5 * posterior.logvar).exp() * noise;
    const at::Tensor error = autoencoder.decode_unscaled(z) - pixels;
    const at::Tensor reconstruction = error.abs().mean() + error.square().mean();
    const at::Tensor kl = 0.5 * (posterior.mean.square() + posterior.logvar.exp() - 1.0 - posterior.logvar).mean();
    (reconstruction + recipe.sft.kl_weight * kl).backward();
    const optim::GradNorm norm = clip.check(parameters);
    if (!norm.skip) optimizer.step(optim::lr_factor(recipe.optim, step, recipe.run.num_steps), norm.scale);
    optimizer.zero_grad();
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    monitor.record({.step = step,
                    .values = {{"sft/reconstruction_l1", error.abs().mean().item<double>()},
                               {"sft/kl", kl.item<double>()},
                               {"optim/grad_norm", norm.norm},
                               {"throughput/images_per_s", static_cast<double>(batch) / seconds}}});
  }
  // Measured on images that training did not see.
  const at::NoGradGuard no_grad;
  const at::Tensor latents =
      autoencoder.posterior(policy::to_pixels(render_batch(examples, recipe.run.num_steps * batch, 256))).mean;
  const std::string config =
      config_with_scale(source / "config.json", latents.mean().item<double>(), 1.0 / latents.std().item<double>());
  checkpoint::build_folder(recipe.sft.output, [&](const std::filesystem::path& folder) {
    write_autoencoder_folder(source, folder, parameters, config);
  });
}

}  // namespace unigrpo::train
