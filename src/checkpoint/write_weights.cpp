#include "checkpoint/write_weights.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "io/atomic_file.h"

namespace unigrpo::checkpoint {

void write_weights(const std::filesystem::path& folder, const std::vector<io::TensorView>& views,
                   const WeightsFile& file) {
  uint64_t total = 0;
  for (const io::TensorView& view : views) total += view.bytes.size();
  if (file.shard_bytes == 0 || total <= file.shard_bytes) {
    io::write_safetensors(folder / file.name, views, file.metadata, file.stop);
    return;
  }
  std::vector<std::vector<io::TensorView>> shards(1);
  uint64_t filled = 0;
  for (const io::TensorView& view : views) {
    if (!shards.back().empty() && filled + view.bytes.size() > file.shard_bytes) {
      shards.emplace_back();
      filled = 0;
    }
    shards.back().push_back(view);
    filled += view.bytes.size();
  }
  nlohmann::json weight_map = nlohmann::json::object();
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string name = fmt::format("{}-{:05}-of-{:05}.safetensors", file.shards, i + 1, shards.size());
    for (const io::TensorView& view : shards[i]) weight_map[view.name] = name;
    io::write_safetensors(folder / name, shards[i], file.metadata, file.stop);
  }
  const nlohmann::json index = {{"metadata", {{"total_size", total}}}, {"weight_map", weight_map}};
  io::write_file_atomic(folder / (file.shards + ".safetensors.index.json"), index.dump(2) + "\n");
}

}  // namespace unigrpo::checkpoint
