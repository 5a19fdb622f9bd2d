#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "parallel/comm.h"
#include "tensor/named_tensor.h"

/// Parameters of which ranks that divide a layer's products have a slice each (Megatron: Shoeybi et al., arXiv
/// 1909.08053): of `parts` runs of rows, or of a matrix' columns, the one at `part`, as even as can be.
namespace unigrpo::parallel {

/// The parameter keeps its identity and loses all but this slice, along dimension 0 (rows) or 1 (columns). Returned as
/// the piece of the whole that it is.
NamedTensor cut(const NamedTensor& parameter, int64_t dim, int64_t part, int64_t parts);

/// The whole, from the slices of all ranks, in the order of their parts; columns are of even width.
at::Tensor joined(const at::Tensor& own, const PieceOf& piece, Comm& ranks);

}  // namespace unigrpo::parallel
