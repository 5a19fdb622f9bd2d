#pragma once

#include <string_view>

#include "tensor/named_tensor.h"

namespace unigrpo::optim {

/// The tensors that the model computes with, under their official names; requires_grad where trained.
using NamedParameter = NamedTensor;
using NamedParameters = NamedTensors;

/// Copies `source` into the tensors of `destination`, by name and bit for bit. A piece takes its part of a whole
/// tensor, or the same piece.
///
/// Throws BadInput (naming `where` and the tensor) unless both hold the same names, each with the same
/// shape and dtype; nothing is copied then.
void assign(const NamedParameters& destination, const NamedParameters& source, std::string_view where);

}  // namespace unigrpo::optim
