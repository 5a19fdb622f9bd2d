#include "policy/context_digest.h"

#include <ATen/ATen.h>

#include <string_view>

namespace unigrpo::policy {

void ContextDigest::add_token(int64_t id, int64_t position, int64_t visible) {
  token_ids = fnv1a64(static_cast<uint64_t>(id), token_ids);
  position_ids = fnv1a64(static_cast<uint64_t>(position), position_ids);
  mask = fnv1a64(static_cast<uint64_t>(visible), mask);
}

void ContextDigest::add_image(const Block& image, int64_t position, int64_t visible) {
  const bool as_latents = image.kind == Block::Kind::latents;
  position_ids =
      fnv1a64(static_cast<uint64_t>(position), fnv1a64(static_cast<uint64_t>(image.num_tokens()), position_ids));
  mask = fnv1a64(static_cast<uint64_t>(-visible), mask);
  uint64_t& bytes = as_latents ? latents : pixels;
  bytes = fnv1a64(static_cast<uint64_t>(image.grid.height), fnv1a64(static_cast<uint64_t>(image.grid.width), bytes));
  bytes = hash_tensor(as_latents ? image.latents : image.pixels, bytes);
}

uint64_t hash_tensor(const at::Tensor& tensor, uint64_t hash) {
  const at::Tensor flat = tensor.detach().cpu().contiguous();
  for (const int64_t size : flat.sizes()) hash = fnv1a64(static_cast<uint64_t>(size), hash);
  return fnv1a64(std::string_view(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes()), hash);
}

}  // namespace unigrpo::policy
