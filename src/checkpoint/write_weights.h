#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "base/signals.h"
#include "io/safetensors_stream.h"

namespace unigrpo::checkpoint {

struct WeightsFile {
  std::string name = "model.safetensors";  // of the one file
  std::string shards = "model";            // "<shards>-00001-of-00002.safetensors", "<shards>.safetensors.index.json"
  uint64_t shard_bytes = 0;  // over this size shards of at most this size (a larger tensor has one to itself); 0: one
  std::map<std::string, std::string> metadata = {};
  StopToken stop = {};
};

/// Writes a model's weights into `folder`: one file, or shards with their index.
void write_weights(const std::filesystem::path& folder, const std::vector<io::StreamedTensor>& weights,
                   const WeightsFile& file);
/// The same of weights that are all in memory.
void write_weights(const std::filesystem::path& folder, const std::vector<io::TensorView>& views,
                   const WeightsFile& file);

}  // namespace unigrpo::checkpoint
