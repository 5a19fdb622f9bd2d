#pragma once

#include <ATen/core/ScalarType.h>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/signals.h"
#include "io/safetensors.h"
#include "optim/parameters.h"

namespace unigrpo::checkpoint {

struct ExportOptions {
  /// Element type of all floating-point weights that are written (a file copied as it is keeps its own), which the
  /// configs then name; empty keeps the source's, or a weight's own where the source has no weights.
  std::optional<at::ScalarType> dtype = {};
  /// Over this size the weights come in shards of at most this size (a larger tensor has one to itself) with
  /// model.safetensors.index.json; 0 = the family's one file.
  uint64_t shard_bytes = 0;
  /// Into the files' headers, e.g. recipe and step; joins what the source has.
  std::map<std::string, std::string> metadata = {};
  /// Text of generation_config.json; empty copies the source's.
  std::optional<std::string> generation_config = {};
  /// New values of ae.safetensors, by its names; empty copies the source's file.
  optim::NamedParameters autoencoder = {};
  StopToken stop = {};  // once it is asked for, Interrupted is thrown, and nothing is left behind
};

/// Writes a model folder in the official layout of the source's family (BAGEL: ema.safetensors and ae.safetensors;
/// Qwen2.5: model.safetensors; a pair: both, in its halves' folders, weights under `text.` and `image.`): the source's
/// configs (but for the type that they name), tokenizer and autoencoder byte for byte, and its weights under the same
/// names with the same shapes, values from `weights` where given and copied elsewhere. Of embeddings that are tied one
/// copy is written.
///
/// A source without weights (configs and tokenizer alone) gets `weights` as they are. The folder is built under a
/// temporary name beside `destination` and renamed when complete; `destination` must be absent or an empty folder.
/// Throws BadInput naming file and tensor: a destination in use, no config.json in the source, a weight that the
/// source does not have or has in another shape. RuntimeFailure where the disk refuses.
void export_model(const std::filesystem::path& source_model_folder, const std::filesystem::path& destination,
                  const optim::NamedParameters& weights, const ExportOptions& options = {});

/// A weight that is made when the file comes to it, so that a model may be larger than the memory.
struct LazyWeight {
  using Take = std::function<void(const at::Tensor& elements)>;

  std::string name = {};
  std::vector<int64_t> shape = {};
  at::ScalarType dtype = at::kFloat;
  /// Hands all of its elements on, in order and of its dtype, some at a time. `source`: what the source's folder has
  /// under its name, null where it has no weights.
  std::function<void(const io::TensorView* source, const Take& take)> make = {};
};

/// The same folder as export_model() makes of these weights.
void export_lazily(const std::filesystem::path& source_model_folder, const std::filesystem::path& destination,
                   const std::vector<LazyWeight>& weights, const ExportOptions& options = {});

}  // namespace unigrpo::checkpoint
