#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace unigrpo::io {

/// The tensors of a checkpoint: one file, or a folder of shards with their `*.safetensors.index.json`.
///
/// Every tensor that an index lists must be in the named shard and the other way round; shard names are plain
/// file names in the folder. Throws BadInput naming the file.
class Checkpoint {
 public:
  /// `path`: a .safetensors file, an index file, or a folder holding one index or exactly one .safetensors.
  static Checkpoint open(const std::filesystem::path& path);

  const std::vector<const TensorView*>& tensors() const { return tensors_; }  // in order of name
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  Checkpoint() = default;
  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::vector<const TensorView*> tensors_;
};

}  // namespace unigrpo::io
