#include "policy/context_digest.h"

#define XXH_INLINE_ALL
#include <ATen/ATen.h>
#include <xxhash.h>

namespace unigrpo::policy {

void ContextDigest::add_token(int64_t id, int64_t position, int64_t visible) {
  token_ids = fnv1a64(static_cast<uint64_t>(id), token_ids);
  position_ids = fnv1a64(static_cast<uint64_t>(position), position_ids);
  mask = fnv1a64(static_cast<uint64_t>(visible), mask);
}

namespace {

/// What both kinds of clean images leave behind; `bytes` is the field of their kind.
template <typename Image>
void add(ContextDigest& digest, uint64_t& bytes, const Image& image, const at::Tensor& content, int64_t position,
         int64_t visible) {
  const auto tokens = static_cast<uint64_t>(image.grid.num_tokens() + 2);
  digest.position_ids = fnv1a64(static_cast<uint64_t>(position), fnv1a64(tokens, digest.position_ids));
  digest.mask = fnv1a64(static_cast<uint64_t>(-visible), digest.mask);
  bytes = fnv1a64(static_cast<uint64_t>(image.grid.height), fnv1a64(static_cast<uint64_t>(image.grid.width), bytes));
  bytes = hash_tensor(content, bytes);
}

}  // namespace

void ContextDigest::add_image(const LatentBlock& image, int64_t position, int64_t visible) {
  add(*this, latents, image, image.latents, position, visible);
}

void ContextDigest::add_image(const VisionBlock& image, int64_t position, int64_t visible) {
  add(*this, pixels, image, image.pixels, position, visible);
}

uint64_t hash_tensor(const at::Tensor& tensor, uint64_t hash) {
  const at::Tensor flat = tensor.detach().cpu().contiguous();
  for (const int64_t size : flat.sizes()) hash = fnv1a64(static_cast<uint64_t>(size), hash);
  return XXH3_64bits_withSeed(flat.const_data_ptr(), flat.nbytes(), hash);
}

}  // namespace unigrpo::policy
