#pragma once

#include <cstdint>

#include "base/hash.h"
#include "policy/block.h"

namespace unigrpo::policy {

/// Fingerprints of what a sequence has read, field by field, taken where keys and values are made: by the cached path
/// as by the packed one. Equal fields mean that both saw the same.
struct ContextDigest {
  uint64_t token_ids = kFnvStart;
  uint64_t position_ids = kFnvStart;
  uint64_t mask = kFnvStart;     // how many tokens each one sees, and whether it looks ahead in its block
  uint64_t latents = kFnvStart;  // bytes of the context's images as VAE tokens
  uint64_t pixels = kFnvStart;   // bytes of the context's images as the vision tower gets them
  bool operator==(const ContextDigest&) const = default;

  /// visible: tokens that it sees, itself included.
  void add_token(int64_t id, int64_t position, int64_t visible);
  /// A clean image at one position; visible: tokens that each of the block's sees, the block included.
  void add_image(const LatentBlock& image, int64_t position, int64_t visible);
  void add_image(const VisionBlock& image, int64_t position, int64_t visible);
};

/// Of a tensor's shape and bytes (XXH3), continuing `hash`.
uint64_t hash_tensor(const at::Tensor& tensor, uint64_t hash);

}  // namespace unigrpo::policy
