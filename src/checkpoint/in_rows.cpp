#include "checkpoint/in_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <stdexcept>
#include <utility>
#include <vector>

#include "parallel/even_shares.h"
#include "parallel/groups.h"

namespace unigrpo::checkpoint {
namespace {

parallel::Comm& ranks_of(int64_t parts, const Runtime& runtime) {
  if (runtime.groups) {
    if (runtime.groups->tensor && runtime.groups->tensor->size() == parts) return *runtime.groups->tensor;
    for (const parallel::LayerGroups& layer : runtime.groups->layers) {
      if (layer.tensor && layer.tp == parts) return *layer.tensor;
    }
  }
  throw std::logic_error("a piece of columns that no ranks have between them");
}

/// A piece that begins or ends within a row stays so there: elements of one row are in a row of the whole as well. Of
/// the whole rows between, each rank gets a share, with the columns of all.
void add_in_rows(const NamedTensor& own, const Runtime& runtime, NamedTensors& to) {
  const PieceOf& piece = *own.piece;
  const int64_t width = piece.width, row = piece.shape.back(), first = piece.first, end = first + own.tensor.numel();
  const int64_t first_row = (first + width - 1) / width;
  const int64_t end_row = std::max(first_row, end / width);
  const at::Tensor flat = own.tensor.detach().reshape({-1});
  const auto add_of_row = [&](int64_t from, int64_t until) {
    if (from >= until) return;
    to.push_back({own.name, flat.narrow(0, from - first, until - from),
                  PieceOf{.shape = piece.shape, .first = from / width * row + piece.column + from % width}});
  };
  add_of_row(first, std::min(end, first_row * width));
  parallel::Comm& ranks = ranks_of(row / width, runtime);
  const int64_t count = end_row - first_row, parts = ranks.size();
  if (count > 0) {
    const std::vector<int64_t> shares = parallel::even_shares(count, parts);
    const int64_t share = shares[static_cast<size_t>(ranks.rank())];
    at::Tensor got = at::empty({parts * share, width}, flat.options());
    ranks.all_to_all(got, flat.narrow(0, first_row * width - first, count * width).view({count, width}),
                     std::vector<int64_t>(static_cast<size_t>(parts), share), shares, "checkpoint");
    const int64_t own_row = first_row + parallel::share_begin(count, ranks.rank(), parts);
    if (share > 0) {
      to.push_back({own.name, got.view({parts, share, width}).transpose(0, 1).reshape({-1}),
                    PieceOf{.shape = piece.shape, .first = own_row * row}});
    }
  }
  add_of_row(std::max(first, end_row * width), end);
}

}  // namespace

Snapshot in_rows(Snapshot snapshot, const Runtime& runtime) {
  for (auto& [part, tensors] : snapshot.parts) {
    NamedTensors rows;
    for (NamedTensor& each : tensors) {
      if (each.piece && each.piece->width > 0) {
        add_in_rows(each, runtime, rows);
      } else {
        rows.push_back(std::move(each));
      }
    }
    tensors = std::move(rows);
  }
  return snapshot;
}

}  // namespace unigrpo::checkpoint
