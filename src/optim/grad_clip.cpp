#include "optim/grad_clip.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "kernels/sum_of_squares.h"
#include "parallel/sharded_model.h"
#include "runtime/ranks.h"
#include "tensor/spoil.h"

namespace unigrpo::optim {

namespace {

struct Measured {
  double sum = 0;          // of squares
  int64_t nonfinite = -1;  // the first parameter of the list with a gradient that is not finite
};

Measured measured(const NamedParameters& parameters, const parallel::ShardedModel* sharded) {
  std::vector<int64_t> places;
  std::vector<at::Tensor> grads;
  for (size_t index = 0; index < parameters.size(); ++index) {
    const NamedParameter& parameter = parameters[index];
    const at::Tensor& grad = parameter.tensor.grad();
    if (!grad.defined() || (parameter.piece && grad.numel() == 0)) continue;
    if (grad.scalar_type() != at::kFloat && grad.scalar_type() != at::kBFloat16) {
      throw std::invalid_argument("GradClip: the gradient of '" + parameter.name + "' must be float32 or bf16");
    }
    places.push_back(static_cast<int64_t>(index));
    grads.push_back(grad.contiguous());
  }
  if (!grads.empty()) tensor::spoil("grad.reduced", grads.front());
  const at::Tensor squares = kernels::sum_of_squares(grads);
  Measured result;
  for (size_t i = 0; i < places.size(); ++i) {
    const double square = squares.const_data_ptr<double>()[i];
    if (!parameters[places[i]].piece) result.sum += square;  // of pieces: by cells, which ranks do not cut
    if (result.nonfinite < 0 && !std::isfinite(square)) result.nonfinite = places[i];
  }
  if (sharded) result.sum += sharded->square_of_gradients();
  return result;
}

}  // namespace

GradNorm GradClip::check(const NamedParameters& parameters, const Runtime& runtime,
                         const parallel::ShardedModel* sharded) {
  const at::NoGradGuard no_grad;
  auto [sum, first] = measured(parameters, sharded);
  GradNorm result;
  // What all ranks do follows from what each of them has seen, though their sums should be the same.
  for (const int64_t place : gather(runtime, first, "gradient norm")) {
    if (place >= 0 && (first < 0 || place < first)) first = place;
  }
  if (first >= 0) {
    if (std::isfinite(sum)) sum = std::numeric_limits<double>::quiet_NaN();
    result.nonfinite = parameters[static_cast<size_t>(first)].name;
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
