#include "parallel/slice.h"

#include <ATen/ATen.h>

#include <vector>

#include "parallel/even_shares.h"

namespace unigrpo::parallel {
namespace {

constexpr const char* kPurpose = "slices";

}  // namespace

NamedTensor cut(const NamedTensor& parameter, int64_t dim, int64_t part, int64_t parts) {
  const at::NoGradGuard no_grad;
  const at::Tensor whole = parameter.tensor.detach();
  const int64_t begin = share_begin(whole.size(dim), part, parts);
  const at::Tensor own = whole.narrow(dim, begin, share_begin(whole.size(dim), part + 1, parts) - begin);
  PieceOf piece{.shape = whole.sizes().vec()};
  if (dim == 0) {
    piece.first = begin * (whole.numel() / whole.size(0));
  } else {
    piece.column = begin;
    piece.width = own.size(1);
  }
  parameter.tensor.set_data(own.clone(at::MemoryFormat::Contiguous));  // without the whole's memory
  return {parameter.name, parameter.tensor, piece};
}

at::Tensor joined(const at::Tensor& own, const PieceOf& piece, Comm& ranks) {
  const int64_t parts = ranks.size();
  at::Tensor whole = at::empty(piece.shape, own.options());
  if (piece.width > 0) {
    at::Tensor all = at::empty({parts, piece.shape[0], piece.width}, own.options());
    ranks.all_gather(all, own, kPurpose);
    whole.view({piece.shape[0], parts, piece.width}).copy_(all.transpose(0, 1));
    return whole;
  }
  if (piece.shape[0] % parts == 0) {
    ranks.all_gather(whole, own, kPurpose);
    return whole;
  }
  std::vector<int64_t> copies(piece.shape.size(), 1);
  copies.front() = parts;
  const std::vector<int64_t> to_each(static_cast<size_t>(parts), own.size(0));
  ranks.all_to_all(whole, own.repeat(copies), even_shares(piece.shape[0], parts), to_each, kPurpose);
  return whole;
}

}  // namespace unigrpo::parallel
