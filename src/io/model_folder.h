#pragma once

#include <array>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/safetensors.h"

namespace unigrpo::io {

/// The tensors of a checkpoint: one file, or shards with their `*.safetensors.index.json`.
///
/// Every tensor that an index lists must be in the named shard and the other way round; shard names
/// are plain file names in the folder, and a link may only lead within the folder or into the
/// `../../blobs` of a model hub's cache. Throws BadInput naming the file.
class Checkpoint {
 public:
  /// `path`: a .safetensors file, an index file, or a folder holding one index or exactly one
  /// .safetensors. In a folder every .safetensors must be named by the index; beside an index that
  /// is given itself, only those that look like its shards.
  static Checkpoint open(const std::filesystem::path& path);

  const std::vector<const TensorView*>& tensors() const { return tensors_; }  // in order of name
  const TensorView* find(std::string_view name) const;
  const std::map<std::string, std::string>& metadata() const { return files_.front().metadata(); }
  const std::filesystem::path& path() const { return path_; }

 private:
  Checkpoint() = default;
  void open_shards(const std::filesystem::path& index, bool whole_folder);
  void collect_tensors();
  std::filesystem::path path_;
  std::vector<SafetensorsFile> files_;
  std::vector<const TensorView*> tensors_;
};

/// What lies in a model folder beside its weights and says what the model is: configs, the tokenizer, how images are
/// read.
inline constexpr std::array<std::string_view, 13> kModelFiles = {"config.json",
                                                                 "llm_config.json",
                                                                 "vit_config.json",
                                                                 "preprocessor_config.json",
                                                                 "processor_config.json",
                                                                 "tokenizer.model",
                                                                 "tokenizer.json",
                                                                 "tokenizer_config.json",
                                                                 "vocab.json",
                                                                 "merges.txt",
                                                                 "added_tokens.json",
                                                                 "special_tokens_map.json",
                                                                 "chat_template.jinja"};
/// And how it is sampled.
inline constexpr std::string_view kGenerationConfig = "generation_config.json";

/// The file that opens a model folder's weights: `single` or the index of its shards; nothing where there is neither.
std::optional<std::filesystem::path> find_weights(const std::filesystem::path& folder,
                                                  const std::string& single = "model.safetensors");

}  // namespace unigrpo::io
