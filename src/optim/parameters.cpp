#include "optim/parameters.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <stdexcept>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "base/error.h"

namespace unigrpo::optim {
namespace {

/// `count` elements of a tensor, those of a piece.
at::Tensor elements_of(const at::Tensor& whole, const PieceOf& piece, int64_t count) {
  const at::Tensor columns = piece.width > 0 ? whole.narrow(-1, piece.column, piece.width) : whole;
  return columns.flatten().narrow(0, piece.first, count);
}

}  // namespace

void assign(const NamedParameters& destination, const NamedParameters& source, std::string_view where) {
  std::unordered_map<std::string_view, const NamedParameter*> by_name;
  for (const NamedParameter& entry : source) by_name.emplace(entry.name, &entry);
  for (const NamedParameter& entry : destination) {
    const auto found = by_name.find(entry.name);
    if (found == by_name.end()) throw BadInput("{}: tensor '{}' is missing", where, entry.name);
    const at::Tensor& tensor = found->second->tensor;
    const std::vector<int64_t> shape = found->second->shape(), expected = entry.shape();
    if (shape != expected) {
      throw BadInput("{}: tensor '{}' has shape [{}], expected [{}]", where, entry.name, fmt::join(shape, ", "),
                     fmt::join(expected, ", "));
    }
    if (found->second->piece && (found->second->piece != entry.piece || tensor.numel() != entry.tensor.numel())) {
      throw std::logic_error("assign: another piece of '" + entry.name + "'");
    }
    if (tensor.scalar_type() != entry.tensor.scalar_type()) {
      throw BadInput("{}: tensor '{}' has dtype {}, expected {}", where, entry.name,
                     c10::toString(tensor.scalar_type()), c10::toString(entry.tensor.scalar_type()));
    }
  }
  if (by_name.size() != destination.size()) {
    std::unordered_map<std::string_view, bool> expected;
    for (const NamedParameter& entry : destination) expected.emplace(entry.name, true);
    for (const NamedParameter& entry : source) {
      if (!expected.contains(entry.name)) throw BadInput("{}: unexpected tensor '{}'", where, entry.name);
    }
  }
  const at::NoGradGuard no_grad;
  for (const NamedParameter& entry : destination) {
    const NamedParameter& from = *by_name.at(entry.name);
    at::Tensor target = entry.tensor;
    const bool is_part = entry.piece && !from.piece;
    target.copy_(is_part ? elements_of(from.tensor, *entry.piece, target.numel()) : from.tensor);
  }
}

}  // namespace unigrpo::optim
