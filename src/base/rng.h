#pragma once

#include <array>
#include <cstdint>

namespace unigrpo {

/// What a random number is for. Part of every key, so that two uses never share a stream.
/// The values are part of the numeric contract: append, never renumber.
enum class Purpose : uint32_t {
  prompt_order = 1,
  text_sampling = 2,
  initial_noise = 3,
  sde_noise = 4,
  sde_window = 5,
  parameter_init = 6,
  sft_order = 7,
  sft_timestep = 8,
  sft_noise = 9,
  vae_posterior = 10,
  world_scene = 11,
  world_plan = 12,
  dropout = 13,
  test = 14,
  sft_task = 15,
};

/// Names a random stream. Same key, same numbers: on any rank, in any batch, after any restart.
struct StreamKey {
  uint64_t seed = 0;
  uint64_t step = 0;
  uint64_t prompt = 0;
  uint64_t sample = 0;
  uint64_t segment = 0;
  uint64_t stream = 0;  // of a segment that has several: a hash of its name; 0: it has one
  Purpose purpose = Purpose::test;
};

/// Counter-based generator, Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy
/// as 1, 2, 3"). The 128-bit counter counts blocks; the key is a 64-bit mix of the StreamKey.
class RandomStream {
 public:
  explicit RandomStream(const StreamKey& key);

  uint32_t next_u32();
  uint64_t next_u64();
  /// In [0, 1), 53 bits.
  double uniform();
  double uniform(double low, double high) { return low + (high - low) * uniform(); }
  /// In 0..bound-1 without bias; bound >= 1.
  uint64_t below(uint64_t bound);
  /// Standard normal (Box-Muller, both values used).
  double normal();
  bool chance(double probability) { return uniform() < probability; }

  /// Philox's key, and the upper half of its counter: what kernels make the same numbers from.
  uint64_t key() const { return key_; }
  uint64_t stream() const { return stream_; }

 private:
  void refill();
  uint64_t key_ = 0;
  uint64_t stream_ = 0;  // a second, independent mix of the StreamKey
  uint64_t counter_ = 0;
  std::array<uint32_t, 4> block_{};
  uint32_t used_ = 4;
  double spare_normal_ = 0;
  bool has_spare_ = false;
};

}  // namespace unigrpo
