// How BAGEL reads and decodes images: size rules, latents, vision tokens.
#include <ATen/ATen.h>

#include <algorithm>
#include <map>
#include <utility>

#include "base/error.h"
#include "nn/patch.h"
#include "policy/bagel/bagel.h"
#include "tensor/device.h"

namespace unigrpo::policy {
namespace {

constexpr int kMaxSidesRatio = 200;  // beyond it a resized image would keep next to nothing

/// Calls f for runs of neighbours of one grid.
template <typename ImageBlock, typename F>
void for_each_run(std::span<const ImageBlock* const> blocks, const F& f) {
  size_t first = 0;
  for (size_t i = 1; i <= blocks.size(); ++i) {
    if (i < blocks.size() && blocks[i]->grid == blocks[first]->grid) continue;
    f(blocks.subspan(first, i - first));
    first = i;
  }
}

}  // namespace

data::ImageSizeRule BagelConfig::latents_rule() const {
  const int64_t side = max_latent_size * pixels_per_token();
  return {.max_size = side, .min_size = side / 2, .stride = pixels_per_token()};
}

data::ImageSizeRule BagelConfig::vision_rule() const {
  const int64_t side = vit_max_patches_per_side * vit.patch_size;
  return {.max_size = side, .min_size = std::min(side, 16 * vit.patch_size), .stride = vit.patch_size};
}

at::Tensor to_pixels(std::span<const Image> images) {
  const auto b = static_cast<int64_t>(images.size());
  const int64_t h = images.front().height, w = images.front().width;
  at::Tensor bytes = at::empty({b, h, w, 3}, at::kByte);
  auto* out = bytes.mutable_data_ptr<uint8_t>();
  for (const Image& image : images) out = std::copy(image.pixels.begin(), image.pixels.end(), out);
  return bytes.permute({0, 3, 1, 2}).to(at::kFloat).div(127.5).sub(1.0).contiguous();
}

LatentGrid Bagel::grid_for(int64_t image_size) const {
  const int64_t pixels = config_.pixels_per_token();
  const int64_t side = image_size / pixels;
  if (image_size % pixels != 0 || side < 1 || side > config_.max_latent_size) {
    throw BadInput("rollout.image_size must be a multiple of {} up to {} for this model, got {}", pixels,
                   pixels * config_.max_latent_size, image_size);
  }
  return {side, side};
}

at::Tensor Bagel::embed_latents(const at::Tensor& latents, const at::Tensor& t, LatentGrid grid) const {
  const auto dtype = latent_positions_.scalar_type();
  const at::Tensor time =
      time_fc2_(at::silu(time_fc1_(nn::timestep_features(t, BagelConfig::kTimeFeatures).to(dtype))));  // [N, D]
  const at::Tensor ids = nn::grid_position_ids(grid.height, grid.width, config_.max_latent_size, device());
  const at::Tensor positions = latent_positions_.index_select(0, ids);                 // [L, D]
  return (vae2llm_(latents.to(dtype)) + time.unsqueeze(1) + positions).flatten(0, 1);  // [N * L, D]
}

at::Tensor Bagel::embed_clean_latents(std::span<const LatentBlock* const> blocks) const {
  std::vector<at::Tensor> parts;
  for_each_run(blocks, [&](std::span<const LatentBlock* const> run) {
    std::vector<at::Tensor> latents;
    for (const LatentBlock* block : run) latents.push_back(block->latents);
    const at::Tensor t = at::zeros({static_cast<int64_t>(run.size())}, at::TensorOptions(at::kFloat).device(device()));
    parts.push_back(embed_latents(tensor::sent(at::stack(latents), device()), t, run.front()->grid));
  });
  return at::cat(parts, 0);
}

at::Tensor Bagel::embed_vision(std::span<const VisionBlock* const> blocks) const {
  std::vector<at::Tensor> parts;
  for_each_run(blocks, [&](std::span<const VisionBlock* const> run) {
    std::vector<at::Tensor> pixels;
    for (const VisionBlock* block : run) pixels.push_back(block->pixels);
    const at::Tensor features = vision_->features(tensor::sent(at::stack(pixels), device()));
    const LatentGrid grid = run.front()->grid;
    parts.push_back(vision_->connect(features, grid.height, grid.width).flatten(0, 1));
  });
  return at::cat(parts, 0);
}

std::vector<std::vector<Block>> Bagel::read_images(std::span<const Image> images, bool with_latents) {
  std::vector<std::vector<Block>> blocks(images.size());
  std::map<std::pair<int, int>, std::vector<size_t>> by_size;  // encoded together
  std::vector<Image> fitted;
  for (size_t i = 0; i < images.size(); ++i) {
    const auto [low, high] = std::minmax(images[i].width, images[i].height);
    if (low < 1 || high / low > kMaxSidesRatio) {
      throw BadInput("an image of {} x {} pixels: sides up to {} : 1 can be read", images[i].width, images[i].height,
                     kMaxSidesRatio);
    }
    fitted.push_back(data::fit_image(images[i], config_.latents_rule()));
    by_size[{fitted[i].width, fitted[i].height}].push_back(i);
  }
  if (with_latents) {
    for (const auto& [size, members] : by_size) {
      std::vector<Image> same;
      for (const size_t i : members) same.push_back(fitted[i]);
      const at::Tensor latents = encode_images(tensor::sent(to_pixels(same), device())).to(at::kCPU, at::kFloat);
      const LatentGrid grid{size.second / config_.pixels_per_token(), size.first / config_.pixels_per_token()};
      for (size_t k = 0; k < members.size(); ++k) {
        blocks[members[k]].push_back(LatentBlock{latents[static_cast<int64_t>(k)].clone(), grid});
      }
    }
  }
  for (size_t i = 0; i < images.size(); ++i) {
    const Image seen = data::fit_image(fitted[i], config_.vision_rule());
    blocks[i].push_back(
        VisionBlock{.pixels = to_pixels(std::span(&seen, 1)).squeeze(0),
                    .grid = {seen.height / config_.vit.patch_size, seen.width / config_.vit.patch_size}});
  }
  return blocks;
}

std::vector<Image> Bagel::decode(const at::Tensor& latents, LatentGrid grid) {
  const at::NoGradGuard no_grad;
  const at::Tensor maps = nn::unpatchify(tensor::sent(latents, device()).to(at::kFloat), grid.height, grid.width,
                                         config_.latent_patch_size);
  const at::Tensor pixels = (autoencoder_->decode(maps) * 0.5 + 0.5).clamp(0, 1) * 255.0;  // [B, 3, h, w]
  const at::Tensor bytes = pixels.round().to(at::kByte).permute({0, 2, 3, 1}).contiguous().cpu();
  std::vector<Image> images;
  for (int64_t i = 0; i < bytes.size(0); ++i) {
    const at::Tensor one = bytes[i];
    const auto* data = one.const_data_ptr<uint8_t>();
    images.push_back({.width = static_cast<int>(bytes.size(2)),
                      .height = static_cast<int>(bytes.size(1)),
                      .pixels = std::vector<uint8_t>(data, data + one.numel())});
  }
  return images;
}

at::Tensor Bagel::encode_images(const at::Tensor& images) const {
  const at::NoGradGuard no_grad;
  return nn::patchify(autoencoder_->encode_mean(images), config_.latent_patch_size);
}

}  // namespace unigrpo::policy
