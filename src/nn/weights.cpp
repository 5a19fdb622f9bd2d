#include "nn/weights.h"

#include <utility>

#include <ATen/ATen.h>

#include "base/error.h"

namespace unigrpo::nn {
namespace {

std::string shape_text(at::IntArrayRef shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += (i ? ", " : "") + std::to_string(shape[i]);
  }
  return text + "]";
}

}  // namespace

Weights::Weights(std::string source, std::map<std::string, at::Tensor> tensors)
    : source_(std::move(source)), tensors_(std::move(tensors)) {}

Weights::Weights(std::string source, Initializer initializer)
    : source_(std::move(source)), initializer_(std::move(initializer)) {}

at::Tensor Weights::take(const std::string& name, const std::vector<int64_t>& shape) {
  if (initializer_ && !tensors_.contains(name)) tensors_.emplace(name, initializer_(name, shape));
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    throw BadInput("{}: tensor '{}' is missing (expected shape {})", source_, name, shape_text(shape));
  }
  if (found->second.sizes() != at::IntArrayRef(shape)) {
    throw BadInput("{}: tensor '{}' has shape {}, the config asks for {}", source_, name,
                   shape_text(found->second.sizes()), shape_text(shape));
  }
  taken_.insert(name);
  return found->second;
}

std::vector<std::string> Weights::left_over() const {
  std::vector<std::string> names;
  for (const auto& [name, tensor] : tensors_) {
    if (!taken_.contains(name)) names.push_back(name);
  }
  return names;
}

}  // namespace unigrpo::nn
