#pragma once

#include <ATen/core/Tensor.h>

namespace unigrpo::nn {

/// rows [R, ...] at index [I] -> [I, ...]. As index_select(0, index), with a backward on float32 CPU tensors that adds
/// whole rows in index order (index_add's own loop costs a tensor iterator a row).
at::Tensor gather_rows(const at::Tensor& rows, const at::Tensor& index);

}  // namespace unigrpo::nn
