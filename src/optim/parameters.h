#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <string_view>
#include <vector>

namespace unigrpo::optim {

/// A tensor of the model under its official name; the handle that the model itself uses.
struct NamedParameter {
  std::string name;
  at::Tensor tensor;  // requires_grad where it is trained
};

using NamedParameters = std::vector<NamedParameter>;

/// Copies `source` into the tensors of `destination`, by name and bit for bit.
///
/// Throws BadInput (naming `where` and the tensor) unless both hold the same names, each with the same
/// shape and dtype; nothing is copied then.
void assign(const NamedParameters& destination, const NamedParameters& source, std::string_view where);

}  // namespace unigrpo::optim
