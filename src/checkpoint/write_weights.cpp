#include "checkpoint/write_weights.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/atomic_file.h"

namespace unigrpo::checkpoint {

void write_weights(const std::filesystem::path& folder, const std::vector<io::StreamedTensor>& weights,
                   const WeightsFile& file) {
  uint64_t total = 0;
  for (const io::StreamedTensor& weight : weights) total += weight.num_bytes();
  if (file.shard_bytes == 0 || total <= file.shard_bytes) {
    io::write_streamed(folder / file.name, weights, file.metadata, file.stop);
    return;
  }
  std::vector<std::vector<io::StreamedTensor>> shards(1);
  uint64_t filled = 0;
  for (const io::StreamedTensor& weight : weights) {
    if (!shards.back().empty() && filled + weight.num_bytes() > file.shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(weight);
    filled += weight.num_bytes();
  }
  nlohmann::json weight_map = nlohmann::json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("{}-{:05}-of-{:05}.safetensors", file.shards, i + 1, shards.size());
    for (const io::StreamedTensor& weight : shards[i]) weight_map[weight.name] = name;
    io::write_streamed(folder / name, shards[i], file.metadata, file.stop);
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  io::write_file_atomic(folder / (file.shards + ".safetensors.index.json"), index.dump(2) + "\n");
}

void write_weights(const std::filesystem::path& folder, const std::vector<io::TensorView>& views,
                   const WeightsFile& file) {
  std::vector<io::StreamedTensor> weights;
  for (const io::TensorView& view : views) {
    weights.push_back({.name = view.name,
                       .dtype = view.dtype,
                       .shape = view.shape,
                       .write = [&view](const io::StreamedTensor::Put& put) { put(view.bytes); }});
  }
  write_weights(folder, weights, file);
}

}  // namespace unigrpo::checkpoint
