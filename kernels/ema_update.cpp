#include "kernels/ema_update.h"

#include <ATen/ATen.h>

#include "kernels/chunks.h"
#include "kernels/lanes.h"
#include "kernels/op.h"

namespace unigrpo::kernels {
namespace {

template <typename T>
void update(float rate, int64_t size, const T* __restrict value, float* __restrict average) {
  for (int64_t i = 0; i < size; ++i) average[i] += rate * (widen(value[i]) - average[i]);
}

void ema_update_cpu_(at::TensorList averages, at::TensorList values, double rate_in) {
  const auto rate = static_cast<float>(rate_in);
  for_chunks(cut_into_chunks(averages), [&](int64_t, const Chunk& chunk) {
    auto* average = mutable_data_of<float>(averages, chunk);
    if (values[chunk.index].scalar_type() == at::kFloat) {
      update(rate, chunk.size, data_of<float>(values, chunk), average);
    } else {
      update(rate, chunk.size, data_of<uint16_t>(values, chunk), average);
    }
  });
}

}  // namespace

TORCH_LIBRARY_FRAGMENT(unigrpo, m) { m.def("ema_update_(Tensor(a!)[] averages, Tensor[] values, float rate) -> ()"); }
TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m) { m.impl("ema_update_", &ema_update_reference_); }
TORCH_LIBRARY_IMPL(unigrpo, CPU, m) { m.impl("ema_update_", &ema_update_cpu_); }

void ema_update_reference_(at::TensorList averages, at::TensorList values, double rate) {
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < averages.size(); ++i) averages[i].lerp_(values[i].to(at::kFloat), rate);
}

void ema_update_(at::TensorList averages, at::TensorList values, double rate) {
  TORCH_CHECK(averages.size() == values.size(), "ema_update_: ", values.size(), " values for ", averages.size(),
              " averages");
  check_chunkable(averages, "averages");
  check_chunkable(values, "values");
  for (size_t i = 0; i < averages.size(); ++i) {
    TORCH_CHECK(averages[i].scalar_type() == at::kFloat && averages[i].sizes() == values[i].sizes(),
                "ema_update_: average ", i, " must be float32 of its value's shape");
  }
  if (averages.empty()) return;
  const at::NoGradGuard no_grad;
  call<&ema_update_cpu_>("ema_update_", averages, values, rate);
}

}  // namespace unigrpo::kernels
