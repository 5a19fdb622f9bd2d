#include "policy/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace unigrpo::policy {

KvCache::KvCache(int64_t num_layers, int64_t num_kv_heads, int64_t head_dim, at::TensorOptions options) {
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    keys_.push_back(at::empty({0, num_kv_heads, head_dim}, options));
    values_.push_back(at::empty({0, num_kv_heads, head_dim}, options));
  }
}

Context KvCache::fork(const Context& parent) const {
  Context child;
  child.slots = parent.slots;
  child.position = parent.position;
  child.digest = parent.digest;
  return child;
}

std::vector<int64_t> KvCache::extend(Context& context, int64_t num_tokens) {
  std::vector<int64_t> slots;
  slots.reserve(num_tokens);
  for (int64_t i = 0; i < num_tokens; ++i) {
    if (context.blocks.empty() || context.tail_used == kBlockTokens) {
      if (free_blocks_.empty()) grow();
      context.blocks.push_back(free_blocks_.back());
      free_blocks_.pop_back();
      context.tail_used = 0;
    }
    slots.push_back(context.blocks.back() * kBlockTokens + context.tail_used++);
  }
  context.slots.insert(context.slots.end(), slots.begin(), slots.end());
  return slots;
}

void KvCache::release(Context& context) {
  free_blocks_.insert(free_blocks_.end(), context.blocks.rbegin(), context.blocks.rend());
  context = Context{};
}

int64_t KvCache::tokens_in_use() const {
  return (num_blocks_ - static_cast<int64_t>(free_blocks_.size())) * kBlockTokens;
}

void KvCache::grow() {
  const int64_t before = num_blocks_;
  num_blocks_ = std::max<int64_t>(64, before * 2);
  for (auto* pools : {&keys_, &values_}) {
    for (at::Tensor& pool : *pools) {
      at::Tensor larger = at::zeros({num_blocks_ * kBlockTokens, pool.size(1), pool.size(2)}, pool.options());
      larger.narrow(0, 0, pool.size(0)).copy_(pool);
      pool = larger;
    }
  }
  for (int64_t block = num_blocks_ - 1; block >= before; --block) free_blocks_.push_back(block);
}

}  // namespace unigrpo::policy
