#include "optim/parameters.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <string_view>
#include <unordered_map>

#include "base/error.h"

namespace unigrpo::optim {

void assign(const NamedParameters& destination, const NamedParameters& source, std::string_view where) {
  std::unordered_map<std::string_view, const at::Tensor*> by_name;
  for (const NamedParameter& entry : source) by_name.emplace(entry.name, &entry.tensor);
  for (const NamedParameter& entry : destination) {
    const auto found = by_name.find(entry.name);
    if (found == by_name.end()) throw BadInput("{}: tensor '{}' is missing", where, entry.name);
    const at::Tensor& tensor = *found->second;
    if (tensor.sizes() != entry.tensor.sizes()) {
      throw BadInput("{}: tensor '{}' has shape [{}], expected [{}]", where, entry.name,
                     fmt::join(tensor.sizes(), ", "), fmt::join(entry.tensor.sizes(), ", "));
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
    at::Tensor target = entry.tensor;
    target.copy_(*by_name.at(entry.name));
  }
}

}  // namespace unigrpo::optim
