#pragma once

#include <xmmintrin.h>

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>

namespace unigrpo::kernels {

// Sixteen floats at a time on any CPU. A function marked UNIGRPO_CLONES is compiled once for each of these instruction
// sets, with the helpers below inlined into it, and chosen at run time. Sums over lanes have sixteen partial sums on
// all of them.
#define UNIGRPO_CLONES __attribute__((target_clones("avx512f", "fma", "default")))
#define UNIGRPO_INLINE __attribute__((always_inline)) inline

// Vectors by value, for callers too: no call is left whose ABI could matter.
#pragma GCC diagnostic ignored "-Wpsabi"

constexpr int64_t kLanes = 16;

/// For sums of products. Comparisons are written as loops over lanes: GCC 12 takes those of a vector type apart.
using Floats = float __attribute__((vector_size(kLanes * sizeof(float))));

UNIGRPO_INLINE Floats load(const float* from) {
  Floats value;
  std::memcpy(&value, from, sizeof(value));
  return value;
}
UNIGRPO_INLINE void store(float* to, const Floats& value) { std::memcpy(to, &value, sizeof(value)); }

/// Four floats, which every x86-64 has: for loops that must have the same bits on any machine. They are not compiled
/// for several instruction sets, since a fused multiply-add rounds once instead of twice.
using Quad = __m128;
constexpr int64_t kQuad = 4;

UNIGRPO_INLINE Quad load_quad(const float* from) { return _mm_loadu_ps(from); }
UNIGRPO_INLINE void store_quad(float* to, Quad value) { _mm_storeu_ps(to, value); }
UNIGRPO_INLINE Quad square_root(Quad x) { return _mm_sqrt_ps(x); }  // std::sqrt sets errno, a lane at a time

UNIGRPO_INLINE float sum_of(const float* lanes) {
  float sum = 0;
  for (int64_t i = 0; i < kLanes; ++i) sum += lanes[i];
  return sum;
}

/// The largest of `count` numbers, a multiple of kLanes; -inf where there is none. nan is passed over.
UNIGRPO_INLINE float max_of(const float* from, int64_t count) {
  float lanes[kLanes];
  for (float& lane : lanes) lane = -std::numeric_limits<float>::infinity();
  for (int64_t j = 0; j < count; j += kLanes) {
    for (int64_t i = 0; i < kLanes; ++i) lanes[i] = from[j + i] > lanes[i] ? from[j + i] : lanes[i];
  }
  return *std::max_element(lanes, lanes + kLanes);
}

/// exp for x <= 0 in a form that the compiler vectorises (std::exp is a call an element).
///
///   exp(x) = 2^n exp(r),   n = round(x / ln 2),   |r| <= ln(2) / 2, polynomial of degree 6 in r
///
/// Relative error below 2e-7; 0 below -87.3, where float32 leaves its normal numbers; nan stays nan.
UNIGRPO_INLINE float exp_nonpositive(float x) {
  constexpr float kRound = 12582912.0F;  // 1.5 * 2^23: adding it rounds to an integer
  const float n = (x * 1.44269504F + kRound) - kRound;
  const float r = (x - n * 0.693359375F) - n * -2.12194440e-4F;  // ln 2 in two parts
  float p = 1.0F / 720;
  p = p * r + 1.0F / 120;
  p = p * r + 1.0F / 24;
  p = p * r + 1.0F / 6;
  p = p * r + 0.5F;
  p = p * r + 1.0F;
  p = p * r + 1.0F;
  const float safe = n > -126.0F ? n : -126.0F;
  const float power = std::bit_cast<float>((static_cast<int32_t>(safe) + 127) << 23);
  const float value = p * power;
  return x < -87.3F ? 0.0F : value;
}

// bf16 numbers as their bits.
UNIGRPO_INLINE float widen(float value) { return value; }
UNIGRPO_INLINE float widen(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

/// Rounds to nearest even; nan stays nan.
UNIGRPO_INLINE uint16_t narrow(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16;
  const uint32_t quiet_nan = (bits >> 16) | 0x40U;
  return static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet_nan : rounded);
}

}  // namespace unigrpo::kernels
