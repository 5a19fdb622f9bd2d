#include "kernels/keyed_random.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/PhiloxRNGEngine.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numbers>

#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

constexpr int64_t kGrain = 4096;  // blocks: below, a second thread costs more than it gives

std::array<uint32_t, 4> words(uint64_t key, uint64_t stream, uint64_t block) {
  at::Philox4_32 engine(key, stream, block);
  return {engine(), engine(), engine(), engine()};
}

double fraction(uint32_t low, uint32_t high) {
  return static_cast<double>((low | (uint64_t{high} << 32)) >> 11) * 0x1.0p-53;
}

/// body(words of block b, where its numbers go, how many of them there are), for all blocks of `per_block` numbers.
template <typename Body>
void for_blocks(const at::Tensor& out, int64_t per_block, int64_t key, int64_t stream, const Body& body) {
  float* data = out.mutable_data_ptr<float>();
  const int64_t count = out.numel();
  at::parallel_for(0, (count + per_block - 1) / per_block, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * per_block;
      body(words(std::bit_cast<uint64_t>(key), std::bit_cast<uint64_t>(stream), static_cast<uint64_t>(block)),
           data + first, std::min(per_block, count - first));
    }
  });
}

void normal_cpu_(const at::Tensor& out, int64_t key, int64_t stream) {
  for_blocks(out, 2, key, stream, [](const std::array<uint32_t, 4>& w, float* to, int64_t left) {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - fraction(w[0], w[1])));  // 1 - u lies in (0, 1]
    const double angle = 2.0 * std::numbers::pi * fraction(w[2], w[3]);
    to[0] = static_cast<float>(radius * std::cos(angle));
    if (left > 1) to[1] = static_cast<float>(radius * std::sin(angle));
  });
}

void uniform_cpu_(const at::Tensor& out, int64_t key, int64_t stream) {
  for_blocks(out, 4, key, stream, [](const std::array<uint32_t, 4>& w, float* to, int64_t left) {
    for (int64_t i = 0; i < left; ++i) to[i] = static_cast<float>(w[i] >> 8) * 0x1.0p-24F;
  });
}

void uniform_rows_cpu_(const at::Tensor& out, const at::Tensor& rows, int64_t key, int64_t stream) {
  float* data = out.mutable_data_ptr<float>();
  const int64_t* row_streams = rows.const_data_ptr<int64_t>();
  const int64_t width = out.size(1), blocks = (width + 3) / 4;
  at::parallel_for(0, out.size(0), std::max<int64_t>(1, kGrain / std::max<int64_t>(1, blocks)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t r = begin; r < end; ++r) {
                       const auto own = std::bit_cast<uint64_t>(stream ^ row_streams[r]);
                       for (int64_t b = 0; b < blocks; ++b) {
                         const auto w = words(std::bit_cast<uint64_t>(key), own, static_cast<uint64_t>(b));
                         float* to = data + r * width + 4 * b;
                         for (int64_t i = 0; i < std::min<int64_t>(4, width - 4 * b); ++i) {
                           to[i] = static_cast<float>(w[i] >> 8) * 0x1.0p-24F;
                         }
                       }
                     }
                   });
}

void uniform_rows_reference_(const at::Tensor& out, const at::Tensor& rows, int64_t key, int64_t stream) {
  const at::Tensor made = at::empty(out.sizes(), at::kFloat);
  uniform_rows_cpu_(made, rows.cpu(), key, stream);
  out.copy_(made);
}

using Fill = void (*)(const at::Tensor&, int64_t, int64_t);

/// Made on the CPU and sent over, in one copy.
template <Fill kFill>
void reference_(const at::Tensor& out, int64_t key, int64_t stream) {
  const at::Tensor made = at::empty(out.sizes(), at::kFloat);
  kFill(made, key, stream);
  out.copy_(made);
}

void call_fill(const c10::TypedOperatorHandle<void(const at::Tensor&, int64_t, int64_t)>& op, const at::Tensor& out,
               const RandomKey& key) {
  TORCH_CHECK(out.scalar_type() == at::kFloat && out.is_contiguous(), "what is filled must be contiguous float32");
  const at::NoGradGuard no_grad;
  call(op, out, std::bit_cast<int64_t>(key.key), std::bit_cast<int64_t>(key.stream));
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) {
  m.def("keyed_normal_(Tensor(a!) out, int key, int stream) -> ()");
  m.def("keyed_uniform_(Tensor(a!) out, int key, int stream) -> ()");
  m.def("keyed_uniform_rows_(Tensor(a!) out, Tensor rows, int key, int stream) -> ()");
}
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) {
  m.impl("keyed_normal_", &reference_<normal_cpu_>);
  m.impl("keyed_uniform_", &reference_<uniform_cpu_>);
  m.impl("keyed_uniform_rows_", &uniform_rows_reference_);
}
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) {
  m.impl("keyed_normal_", &normal_cpu_);
  m.impl("keyed_uniform_", &uniform_cpu_);
  m.impl("keyed_uniform_rows_", &uniform_rows_cpu_);
}

void keyed_normal_(const at::Tensor& out, const RandomKey& key) {
  static const auto op = find_op("keyed_normal_", &normal_cpu_);
  call_fill(op, out, key);
}

void keyed_uniform_(const at::Tensor& out, const RandomKey& key) {
  static const auto op = find_op("keyed_uniform_", &uniform_cpu_);
  call_fill(op, out, key);
}

void keyed_uniform_rows_(const at::Tensor& out, const at::Tensor& rows, const RandomKey& key) {
  static const auto op = find_op("keyed_uniform_rows_", &uniform_rows_cpu_);
  TORCH_CHECK(out.scalar_type() == at::kFloat && out.is_contiguous() && out.dim() == 2,
              "what is filled must be a contiguous float32 matrix");
  TORCH_CHECK(rows.scalar_type() == at::kLong && rows.is_contiguous() && rows.dim() == 1 &&
                  rows.size(0) == out.size(0) && rows.device() == out.device(),
              "one int64 a row, on the device of what is filled");
  const at::NoGradGuard no_grad;
  call(op, out, rows, std::bit_cast<int64_t>(key.key), std::bit_cast<int64_t>(key.stream));
}

}  // namespace unigrpo::kernels
