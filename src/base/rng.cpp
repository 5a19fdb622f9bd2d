#include "base/rng.h"

#include <cmath>
#include <numbers>

namespace unigrpo {
namespace {

// Finaliser of SplitMix64 (Steele et al. 2014): a bijection that spreads every input bit.
uint64_t mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

uint64_t fold(const StreamKey& key, uint64_t salt) {
  uint64_t h = mix(salt);
  for (uint64_t part : {key.seed, key.step, key.prompt, key.sample, key.segment, static_cast<uint64_t>(key.purpose)}) {
    h = mix(h ^ part);
  }
  return key.stream == 0 ? h : mix(h ^ key.stream);
}

std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, uint64_t key) {
  auto k0 = static_cast<uint32_t>(key);
  auto k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9;
    k1 += 0xBB67AE85;
  }
  return c;
}

}  // namespace

RandomStream::RandomStream(const StreamKey& key)
    : key_(fold(key, 0x756e696772706f31ULL)), stream_(fold(key, 0x756e696772706f32ULL)) {}

void RandomStream::refill() {
  block_ = philox({static_cast<uint32_t>(counter_), static_cast<uint32_t>(counter_ >> 32),
                   static_cast<uint32_t>(stream_), static_cast<uint32_t>(stream_ >> 32)},
                  key_);
  ++counter_;
  used_ = 0;
}

uint32_t RandomStream::next_u32() {
  if (used_ == 4) refill();
  return block_[used_++];
}

uint64_t RandomStream::next_u64() {
  const uint64_t low = next_u32();
  return low | (uint64_t{next_u32()} << 32);
}

double RandomStream::uniform() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }

uint64_t RandomStream::below(uint64_t bound) {
  const uint64_t reject_below = (0 - bound) % bound;  // 2^64 mod bound
  uint64_t draw = next_u64();
  while (draw < reject_below) draw = next_u64();
  return draw % bound;
}

double RandomStream::normal() {
  if (has_spare_) {
    has_spare_ = false;
    return spare_normal_;
  }
  const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));  // 1 - u lies in (0, 1]
  const double angle = 2.0 * std::numbers::pi * uniform();
  spare_normal_ = radius * std::sin(angle);
  has_spare_ = true;
  return radius * std::cos(angle);
}

}  // namespace unigrpo
