#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace unigrpo {

/// Where a piece of a tensor stands in it: its elements are those of the whole in row-major order, or of some of its
/// last dimension's columns, in a row from `first` on. It may have none.
struct PieceOf {
  std::vector<int64_t> shape;     // of the whole
  int64_t first = 0;              // among the elements of those columns
  int64_t column = 0, width = 0;  // of which columns; width 0: all
  bool operator==(const PieceOf&) const = default;
};

/// A tensor under its official name, or this rank's piece of it, in a shape of its own. As a parameter list: the very
/// tensors that the model computes with, or the pieces of them that a rank holds.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
  std::optional<PieceOf> piece = std::nullopt;

  /// Of the whole tensor.
  std::vector<int64_t> shape() const { return piece ? piece->shape : tensor.sizes().vec(); }
};
using NamedTensors = std::vector<NamedTensor>;

}  // namespace unigrpo
