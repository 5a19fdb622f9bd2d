#include "nn/weights.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <utility>

#include "base/error.h"
#include "io/model_folder.h"
#include "tensor/convert.h"
#include "tensor/shape.h"

namespace unigrpo::nn {
namespace {

at::Tensor without_memory(const std::vector<int64_t>& shape) {
  return at::empty(shape, at::TensorOptions(at::kMeta).dtype(at::kFloat));
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
    return without_memory(shape);
  }
  if (found->second.sizes() != at::IntArrayRef(shape)) {
    throw BadInput("{}: tensor '{}' has shape {}, the config asks for {}", source_, name,
                   tensor::shape_text(found->second.sizes()), tensor::shape_text(shape));
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

Weights open_weights(const std::filesystem::path& path, const at::TensorOptions& options,
                     const std::function<bool(const std::string&)>& wanted) {
  const io::Checkpoint checkpoint = io::Checkpoint::open(path);
  const at::ScalarType dtype = c10::typeMetaToScalarType(options.dtype());
  std::map<std::string, at::Tensor> tensors;
  for (const io::TensorView* view : checkpoint.tensors()) {
    if (wanted(view->name)) tensors.emplace(view->name, tensor::to_tensor(*view, dtype, options.device()));
  }
  return {path.string(), std::move(tensors)};
}

NamedTensors shapes_taken(const std::function<void(Weights&)>& take) {
  Weights weights("config",
                  [](const std::string&, const std::vector<int64_t>& shape) { return without_memory(shape); });
  take(weights);
  NamedTensors shapes;
  for (const auto& [name, tensor] : weights.tensors()) shapes.push_back({name, tensor});
  return shapes;
}

}  // namespace unigrpo::nn
