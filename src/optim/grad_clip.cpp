#include "optim/grad_clip.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <vector>

#include "base/error.h"
#include "base/fault.h"
#include "optim/chunks.h"
#include "optim/elementwise.h"

namespace unigrpo::optim {
namespace {

// Sum of squares of each gradient. On the CPU by fixed chunks; elsewhere by LibTorch, with one transfer.
std::vector<double> squares_of(const NamedParameters& grads) {
  std::vector<double> squares(grads.size(), 0.0);
  const std::vector<Chunk> chunks = cut_into_chunks(grads);
  std::vector<double> parts(chunks.size(), 0.0);
  at::parallel_for(0, static_cast<int64_t>(chunks.size()), 1, [&](int64_t first, int64_t last) {
    for (int64_t c = first; c < last; ++c) {
      const Chunk& chunk = chunks[static_cast<size_t>(c)];
      const at::Tensor& grad = grads[chunk.index].tensor;
      if (!grad.is_cpu()) continue;
      const size_t size = static_cast<size_t>(chunk.end - chunk.begin);
      parts[static_cast<size_t>(c)] =
          grad.scalar_type() == at::kFloat
              ? sum_of_squares(grad.const_data_ptr<float>() + chunk.begin, size)
              : sum_of_squares_bf16(static_cast<const uint16_t*>(grad.const_data_ptr()) + chunk.begin, size);
    }
  });
  for (size_t c = 0; c < chunks.size(); ++c) squares[chunks[c].index] += parts[c];
  std::vector<at::Tensor> elsewhere;
  std::vector<size_t> indices;
  for (size_t index = 0; index < grads.size(); ++index) {
    const at::Tensor& grad = grads[index].tensor;
    if (grad.is_cpu()) continue;
    elsewhere.push_back(at::linalg_vector_norm(grad, 2, at::OptionalIntArrayRef{}, false, at::kDouble));
    indices.push_back(index);
  }
  if (!elsewhere.empty()) {
    const at::Tensor norms = at::stack(elsewhere).cpu();
    for (size_t i = 0; i < indices.size(); ++i) {
      const double norm = norms.const_data_ptr<double>()[i];
      squares[indices[i]] = norm * norm;
    }
  }
  return squares;
}

}  // namespace

GradNorm GradClip::check(const NamedParameters& parameters) {
  const at::NoGradGuard no_grad;
  NamedParameters grads;
  for (const NamedParameter& parameter : parameters) {
    const at::Tensor& grad = parameter.tensor.grad();
    if (!grad.defined()) continue;
    if (grad.scalar_type() != at::kFloat && grad.scalar_type() != at::kBFloat16) {
      throw std::invalid_argument("GradClip: the gradient of '" + parameter.name + "' must be float32 or bf16");
    }
    grads.push_back({parameter.name, grad.contiguous()});
  }
  if (fault::effect("grad.reduced").nan && !grads.empty()) {
    grads.front().tensor.flatten()[0] = std::numeric_limits<float>::quiet_NaN();
  }
  const std::vector<double> squares = squares_of(grads);
  GradNorm result;
  double sum = 0;
  for (size_t index = 0; index < squares.size(); ++index) {
    sum += squares[index];
    if (result.nonfinite.empty() && !std::isfinite(squares[index])) result.nonfinite = grads[index].name;
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

}  // namespace unigrpo::optim
