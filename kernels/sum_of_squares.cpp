#include "kernels/sum_of_squares.h"

#include <ATen/ATen.h>

#include <array>
#include <vector>

#include "kernels/chunks.h"
#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

// Eight running sums: enough for the vector units, and one order whatever the machine.
template <typename T>
double sum_of_chunk(const T* values, int64_t size) {
  constexpr int64_t kSums = 8;
  std::array<double, kSums> sums{};
  int64_t i = 0;
  for (; i + kSums <= size; i += kSums) {
    for (int64_t k = 0; k < kSums; ++k) {
      const double value = widen(values[i + k]);
      sums[k] += value * value;
    }
  }
  for (; i < size; ++i) {
    const double value = widen(values[i]);
    sums[i % kSums] += value * value;
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])) + ((sums[4] + sums[5]) + (sums[6] + sums[7]));
}

at::Tensor sum_of_squares_cpu(at::TensorList tensors) {
  const std::vector<Chunk> chunks = cut_into_chunks(tensors);
  std::vector<double> parts(chunks.size(), 0.0);
  for_chunks(chunks, [&](int64_t ordinal, const Chunk& chunk) {
    parts[ordinal] = tensors[chunk.index].scalar_type() == at::kFloat
                         ? sum_of_chunk(data_of<float>(tensors, chunk), chunk.size)
                         : sum_of_chunk(data_of<uint16_t>(tensors, chunk), chunk.size);
  });
  at::Tensor sums = at::zeros({static_cast<int64_t>(tensors.size())}, at::kDouble);
  auto* out = sums.mutable_data_ptr<double>();
  for (size_t c = 0; c < chunks.size(); ++c) out[chunks[c].index] += parts[c];
  return sums;
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) { m.def("sum_of_squares(Tensor[] tensors) -> Tensor"); }
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("sum_of_squares", &sum_of_squares_reference); }
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) { m.impl("sum_of_squares", &sum_of_squares_cpu); }

at::Tensor sum_of_squares_reference(at::TensorList tensors) {
  std::vector<at::Tensor> norms;
  for (const at::Tensor& tensor : tensors) {
    norms.push_back(at::linalg_vector_norm(tensor, 2, at::OptionalIntArrayRef{}, false, at::kDouble));
  }
  return at::stack(norms).cpu().square();
}

at::Tensor sum_of_squares(at::TensorList tensors) {
  if (tensors.empty()) return at::zeros({0}, at::kDouble);
  check_chunkable(tensors, "what is squared");
  const at::NoGradGuard no_grad;
  return call<&sum_of_squares_cpu>("sum_of_squares", tensors);
}

}  // namespace unigrpo::kernels
