#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>

namespace unigrpo::tensor {

/// Checks a tensor where it enters a module; -1 stands for any size on that axis.
///
/// `name` carries the axes' letters: check_shape(log_probs, {num_rows, -1}, "log_probs [N, T]").
/// Throws std::invalid_argument "log_probs [N, T] has shape [4, 9, 1], expected [4, *]"; an undefined
/// tensor counts as wrong.
void check_shape(const at::Tensor& tensor, at::IntArrayRef expected, std::string_view name);

/// Checks that two tensors have the same shape. Throws std::invalid_argument with both.
void check_same_shape(const at::Tensor& a, std::string_view a_name, const at::Tensor& b, std::string_view b_name);

/// "[2, 3]"; -1 is written "*".
std::string shape_text(at::IntArrayRef shape);

/// float32, or float64 where the tensor is that already: statistics, log-probs and losses are
/// computed in this whatever the model's dtype is.
at::Tensor at_least_float32(const at::Tensor& tensor);

}  // namespace unigrpo::tensor
