#include "parallel/gather_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <deque>
#include <memory>
#include <mutex>
#include <new>
#include <utility>

namespace unigrpo::parallel {
namespace {

/// A layer and the next one are whole at a time, each with what trains and what is frozen.
constexpr size_t kKept = 4;

struct Block {
  void* memory = nullptr;
  size_t bytes = 0;
};

class KeptBlocks {
 public:
  Block take(size_t bytes) {
    {
      const std::lock_guard lock(mutex_);
      const auto found = std::ranges::find(blocks_, bytes, &Block::bytes);
      if (found != blocks_.end()) {
        const Block block = *found;
        blocks_.erase(found);
        return block;
      }
    }
    void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    return {memory, bytes};
  }

  void give_back(Block block) {
    {
      const std::lock_guard lock(mutex_);
      blocks_.push_back(block);
      if (blocks_.size() <= kKept) return;
      block = blocks_.front();
      blocks_.pop_front();
    }
    ::munmap(block.memory, block.bytes);
  }

 private:
  std::mutex mutex_;
  std::deque<Block> blocks_;  // oldest first
};

/// Outlives every buffer, whenever that ends.
KeptBlocks& kept_blocks() {
  static auto* const blocks = new KeptBlocks;
  return *blocks;
}

}  // namespace

c10::DataPtr gather_memory(size_t bytes) {
  auto block = std::make_unique<Block>(kept_blocks().take(bytes));
  const auto give_back = [](void* context) {
    const std::unique_ptr<Block> given(static_cast<Block*>(context));
    kept_blocks().give_back(*given);
  };
  void* const memory = block->memory;
  return {memory, block.release(), give_back, c10::Device(c10::kCPU)};
}

}  // namespace unigrpo::parallel
