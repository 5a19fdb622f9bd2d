#include "optim/grad_clip.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "kernels/sum_of_squares.h"
#include "runtime/ranks.h"
#include "tensor/spoil.h"

namespace unigrpo::optim {

GradNorm GradClip::check(const NamedParameters& parameters, const Runtime& runtime) {
  const at::NoGradGuard no_grad;
  std::vector<std::string> names;
  std::vector<at::Tensor> grads;
  for (const NamedParameter& parameter : parameters) {
    const at::Tensor& grad = parameter.tensor.grad();
    if (!grad.defined()) continue;
    if (grad.scalar_type() != at::kFloat && grad.scalar_type() != at::kBFloat16) {
      throw std::invalid_argument("GradClip: the gradient of '" + parameter.name + "' must be float32 or bf16");
    }
    names.push_back(parameter.name);
    grads.push_back(grad.contiguous());
  }
  if (!grads.empty()) tensor::spoil("grad.reduced", grads.front());
  const at::Tensor squares = kernels::sum_of_squares(grads);
  GradNorm result;
  double sum = 0;
  for (size_t index = 0; index < names.size(); ++index) {
    const double square = squares.const_data_ptr<double>()[index];
    sum += square;
    if (result.nonfinite.empty() && !std::isfinite(square)) result.nonfinite = names[index];
  }
  // What all ranks do follows from what each of them has seen, though their sums should be the same.
  for (const std::string& name : gather(runtime, result.nonfinite, "gradient norm")) {
    if (name.empty()) continue;
    if (std::isfinite(sum)) sum = std::numeric_limits<double>::quiet_NaN();
    result.nonfinite = name;
    break;
  }
  result.norm = std::sqrt(sum);
  if (std::isfinite(result.norm)) {
    skipped_in_a_row_ = 0;
    if (config_.max_grad_norm > 0) {
      result.scale = std::min(1.0, config_.max_grad_norm / (result.norm + 1e-6));
    }
    return result;
  }
  result.skip = true;
  ++skipped_;
  ++skipped_in_a_row_;
  if (config_.on_nonfinite == OnNonfinite::stop) {
    throw RuntimeFailure("the gradient of '{}' is not finite (optim.on_nonfinite = stop)", result.nonfinite);
  }
  if (skipped_in_a_row_ >= config_.max_skipped) {
    throw RuntimeFailure(
        "{} steps in a row had gradients that are not finite, the last one in '{}' "
        "(optim.max_skipped = {})",
        skipped_in_a_row_, result.nonfinite, config_.max_skipped);
  }
  return result;
}

State GradClip::state() const {
  return {.values = {{"skipped", std::to_string(skipped_)}, {"skipped_in_a_row", std::to_string(skipped_in_a_row_)}}};
}

void GradClip::load_state(const State& state, const std::string& where) {
  skipped_ = integer_value(state, "skipped", where);
  skipped_in_a_row_ = integer_value(state, "skipped_in_a_row", where);
}

}  // namespace unigrpo::optim
