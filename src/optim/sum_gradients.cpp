#include "optim/sum_gradients.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "runtime/ranks.h"

namespace unigrpo::optim {
namespace {

constexpr const char* kPurpose = "gradients";
constexpr int64_t kBucket = int64_t{1} << 22;  // float32 elements of one call, but for larger tensors

/// One call for these parameters: their gradients one after another, zeros where there is none here.
void sum_bucket(const Runtime& runtime, const std::vector<at::Tensor>& parameters) {
  std::vector<at::Tensor> parts;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor& grad = parameter.grad();
    parts.push_back(grad.defined() ? grad.to(at::kFloat).flatten()
                                   : at::zeros({parameter.numel()}, parameter.options().dtype(at::kFloat)));
  }
  at::Tensor flat = parts.size() == 1 ? parts.front().contiguous() : at::cat(parts);
  all_reduce(runtime, flat, kPurpose);
  int64_t first = 0;
  for (const at::Tensor& parameter : parameters) {
    const at::Tensor sum = flat.narrow(0, first, parameter.numel()).view(parameter.sizes());
    first += parameter.numel();
    at::Tensor& grad = parameter.mutable_grad();
    if (grad.defined()) {
      grad.copy_(sum);
    } else {
      grad = sum.clone();
    }
  }
}

}  // namespace

void sum_gradients(const Runtime& runtime, const NamedParameters& all) {
  NamedParameters parameters;
  std::ranges::copy_if(all, std::back_inserter(parameters), [](const NamedParameter& one) { return !one.piece; });
  if (!runtime.comm || parameters.empty()) return;
  const at::NoGradGuard no_grad;
  std::vector<int32_t> here;
  for (const NamedParameter& parameter : parameters) here.push_back(parameter.tensor.grad().defined() ? 1 : 0);
  at::Tensor ranks_with = at::tensor(here, at::kInt);
  all_reduce(runtime, ranks_with, kPurpose);
  std::vector<at::Tensor> bucket;
  int64_t size = 0;
  const auto flush = [&] {
    if (!bucket.empty()) sum_bucket(runtime, bucket);
    bucket.clear();
    size = 0;
  };
  for (size_t i = 0; i < parameters.size(); ++i) {
    if (ranks_with.const_data_ptr<int32_t>()[i] == 0) continue;
    const at::Tensor& parameter = parameters[i].tensor;
    if (size + parameter.numel() > kBucket) flush();
    bucket.push_back(parameter);
    size += parameter.numel();
  }
  flush();
}

}  // namespace unigrpo::optim
