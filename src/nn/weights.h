#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/TensorOptions.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "tensor/named_tensor.h"

namespace unigrpo::nn {

/// A model's weights by official name, on their way from a checkpoint into layers.
///
/// take() hands a tensor out and checks its shape; finish() then throws where tensors were missing or nobody asked for
/// some, with all their names. A new model has an `Initializer` instead of a file: what is asked for is made.
class Weights {
 public:
  using Initializer = std::function<at::Tensor(const std::string& name, const std::vector<int64_t>& shape)>;

  /// `source`: the file that errors name.
  Weights(std::string source, std::map<std::string, at::Tensor> tensors);
  Weights(std::string source, Initializer initializer);

  /// A missing tensor comes as a placeholder without memory, until finish() tells. Throws BadInput naming file and
  /// tensor where its shape differs from `shape`.
  at::Tensor take(const std::string& name, const std::vector<int64_t>& shape);
  bool has(const std::string& name) const { return tensors_.contains(name); }
  /// Throws BadInput naming the file, the tensors that are missing and those that are left over.
  void finish() const;
  const std::string& source() const { return source_; }
  const std::map<std::string, at::Tensor>& tensors() const { return tensors_; }

 private:
  std::string source_;
  std::map<std::string, at::Tensor> tensors_;
  Initializer initializer_;
  std::set<std::string> taken_, missing_;
};

/// The tensors of a .safetensors file, or of the shards of an index (io::Checkpoint::open), one by one straight to the
/// device and in the dtype of `options`. Those that `wanted` does not name stay on disk.
Weights open_weights(
    const std::filesystem::path& path, const at::TensorOptions& options,
    const std::function<bool(const std::string& name)>& wanted = [](const std::string&) { return true; });

/// Name and shape of every weight that `take` takes, without memory (meta tensors).
NamedTensors shapes_taken(const std::function<void(Weights&)>& take);

}  // namespace unigrpo::nn
