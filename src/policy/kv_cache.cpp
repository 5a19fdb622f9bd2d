#include "policy/kv_cache.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <bit>

namespace unigrpo::policy {
namespace {

constexpr int64_t kFewestBlocks = 64;

}  // namespace

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
      if (free_blocks_.empty()) grow(std::max(kFewestBlocks, 2 * num_blocks_));
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

int64_t KvCache::pool_tokens(int64_t num_tokens) {
  const int64_t fewest = kFewestBlocks * kBlockTokens;
  if (num_tokens <= fewest) return fewest;
  const auto step = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(num_tokens))) / 8;
  return (num_tokens + step - 1) / step * step;
}

void KvCache::reserve(int64_t num_tokens) {
  if (num_tokens > num_blocks_ * kBlockTokens) grow(pool_tokens(num_tokens) / kBlockTokens);
}

/// New blocks are taken up after those that were given back, whether they were reserved or not.
void KvCache::grow(int64_t num_blocks) {
  const int64_t before = num_blocks_;
  num_blocks_ = num_blocks;
  ++allocations_;
  for (auto* pools : {&keys_, &values_}) {
    for (at::Tensor& pool : *pools) {
      at::Tensor larger = at::zeros({num_blocks_ * kBlockTokens, pool.size(1), pool.size(2)}, pool.options());
      larger.narrow(0, 0, pool.size(0)).copy_(pool);
      pool = larger;
    }
  }
  std::vector<int64_t> fresh;
  for (int64_t block = num_blocks_ - 1; block >= before; --block) fresh.push_back(block);
  free_blocks_.insert(free_blocks_.begin(), fresh.begin(), fresh.end());
}

}  // namespace unigrpo::policy
