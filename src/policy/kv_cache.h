#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "policy/context_digest.h"

namespace unigrpo::policy {

/// What one row has read so far: where its keys and values stand, and the next rotary position.
/// Made by KvCache::fork and extend; give it back with KvCache::release.
struct Context {
  std::vector<int64_t> slots;   // pool rows in reading order, those of shared prefixes included
  std::vector<int64_t> blocks;  // blocks that this context owns
  int64_t tail_used = 0;        // tokens used in its last own block
  int64_t position = 0;         // rotary position of the next token or image block
  ContextDigest digest;         // of what it has read
};

/// Keys and values of all layers in one pool a layer, handed out in blocks of tokens and reused.
/// A forked context shares its parent's rows: the parent must outlive it.
class KvCache {
 public:
  static constexpr int64_t kBlockTokens = 16;

  KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, at::TensorOptions options);

  Context fork(const Context& parent) const;
  /// Room for `num_tokens` more; returns their pool rows and appends them to `context.slots`. Positions are the
  /// caller's.
  std::vector<int64_t> extend(Context& context, int64_t num_tokens);
  void release(Context& context);
  /// Room for so many tokens in all, made at once. What is not reserved is made as it is needed; nothing is given back.
  void reserve(int64_t num_tokens);
  /// So many tokens in whole blocks.
  static constexpr int64_t in_blocks(int64_t num_tokens) {
    return (num_tokens + kBlockTokens - 1) / kBlockTokens * kBlockTokens;
  }
  /// Room that is made where so much is reserved: somewhat more, at most a quarter, so that a little more is no reason
  /// to make it anew.
  static int64_t pool_tokens(int64_t num_tokens);

  at::Tensor& keys(int64_t layer) { return keys_[layer]; }      // [capacity, Hkv, Dh]
  at::Tensor& values(int64_t layer) { return values_[layer]; }  // [capacity, Hkv, Dh]
  int64_t tokens_in_use() const;
  /// How often the pools were made anew, which moves them.
  int64_t allocations() const { return allocations_; }

 private:
  void grow(int64_t num_blocks);
  std::vector<at::Tensor> keys_, values_;
  std::vector<int64_t> free_blocks_;
  int64_t num_blocks_ = 0, allocations_ = 0;
};

}  // namespace unigrpo::policy
