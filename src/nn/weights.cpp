#include "nn/weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <utility>

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
    missing_.insert(name);
    return at::empty(shape, at::TensorOptions(at::kMeta).dtype(at::kFloat));
  }
  if (found->second.sizes() != at::IntArrayRef(shape)) {
    throw BadInput("{}: tensor '{}' has shape {}, the config asks for {}", source_, name,
                   shape_text(found->second.sizes()), shape_text(shape));
  }
  taken_.insert(name);
  return found->second;
}

void Weights::finish() const {
  std::vector<std::string> left_over;
  for (const auto& [name, tensor] : tensors_) {
    if (!taken_.contains(name)) left_over.push_back(name);
  }
  if (missing_.empty() && left_over.empty()) return;
  constexpr size_t kShown = 20;
  std::string problems;
  auto list = [&](size_t count, const char* what, const auto& names) {
    if (count == 0) return;
    problems += fmt::format("{}{} tensor(s) {}: ", problems.empty() ? "" : "; ", count, what);
    size_t shown = 0;
    for (const std::string& name : names) {
      if (shown == kShown) break;
      problems += (shown++ == 0 ? "" : ", ") + name;
    }
    if (shown < count) problems += fmt::format(" and {} more", count - shown);
  };
  list(missing_.size(), "missing", missing_);
  list(left_over.size(), "that the config does not ask for", left_over);
  throw BadInput("{}: {}", source_, problems);
}

}  // namespace unigrpo::nn
