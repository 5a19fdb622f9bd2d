#include "io/model_folder.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <system_error>

#include "base/error.h"
#include "base/text.h"
#include "io/json.h"

namespace unigrpo::io {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kFileSuffix = ".safetensors";
constexpr std::string_view kIndexSuffix = ".safetensors.index.json";
constexpr size_t kMaxIndexBytes = size_t{64} << 20;

using WeightMap = std::map<std::string, std::string, std::less<>>;  // tensor -> shard

/// Names in a folder that end with `suffix`, sorted.
std::set<std::string> names_with(const fs::path& folder, std::string_view suffix) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(suffix)) names.insert(name);
  }
  if (error) throw BadInput("{}: cannot list the folder: {}", folder.string(), error.message());
  return names;
}

// A link inside a downloaded folder could lead anywhere. Model hubs' caches keep the files of
// snapshots/<revision>/ as links into blobs/ beside snapshots/: that one is followed.
void check_link(const fs::path& file, const std::string& where) {
  std::error_code error;
  const fs::path folder = fs::canonical(file.parent_path().empty() ? "." : file.parent_path(), error);
  const fs::path target = error ? fs::path() : fs::canonical(file, error);
  if (error) throw BadInput("{}: {}: {}", where, in_quotes(file.string(), 200), error.message());
  const fs::path parent = target.parent_path();
  if (parent != folder && parent != folder.parent_path().parent_path() / "blobs") {
    throw BadInput("{}: {} is a link out of the folder, to {}", where, in_quotes(file.filename().string(), 200),
                   in_quotes(target.string(), 200));
  }
}

bool is_plain_file_name(const std::string& name) {
  return name.ends_with(kFileSuffix) && name.size() > kFileSuffix.size() && name.size() <= 255 &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

WeightMap read_weight_map(const fs::path& index) {
  const std::string where = index.string();
  const nlohmann::json root = read_json_file(index, {.max_depth = 16, .max_values = 1'000'000}, kMaxIndexBytes);
  if (!root.is_object()) throw BadInput("{}: must be a JSON object with weight_map", where);
  if (root.contains("metadata") && !root.at("metadata").is_object()) {
    throw BadInput("{}: metadata must be an object, got {}", where, root.at("metadata").type_name());
  }
  if (!root.contains("weight_map")) throw BadInput("{}: weight_map is missing", where);
  const nlohmann::json& map = root.at("weight_map");
  if (!map.is_object()) {
    throw BadInput("{}: weight_map must be an object, got {}", where, map.type_name());
  }
  if (map.empty()) throw BadInput("{}: weight_map is empty", where);
  WeightMap weight_map;
  for (const auto& [tensor, shard] : map.items()) {
    if (!shard.is_string()) {
      throw BadInput("{}: weight_map: tensor {}: a shard's file name was expected, got {}", where, in_quotes(tensor),
                     shard.type_name());
    }
    const auto& name = shard.get_ref<const std::string&>();
    if (!is_plain_file_name(name)) {
      throw BadInput(
          "{}: weight_map: tensor {}: {} is not a plain .safetensors file name in the "
          "index's own folder",
          where, in_quotes(tensor), in_quotes(name));
    }
    weight_map.emplace(tensor, name);
  }
  return weight_map;
}

// A shard's name is the index's stem, a dash, and numbers: model-00001-of-00002.safetensors.
bool looks_like_shard_of(const std::string& name, const fs::path& index) {
  const std::string file = index.filename().string();
  const std::string stem = file.substr(0, file.size() - kIndexSuffix.size());
  return matches_pattern(name, stem + "-?*-of-?*.safetensors");
}

// What the index says about a shard must be what is in it.
void check_shard(const SafetensorsFile& file, const std::string& name, const WeightMap& weight_map,
                 const std::string& where) {
  for (const TensorView& view : file.tensors()) {
    const auto listed = weight_map.find(view.name);
    if (listed == weight_map.end()) {
      throw BadInput("{}: weight_map lacks tensor {} of shard {}", where, in_quotes(view.name), in_quotes(name));
    }
    if (listed->second != name) {
      throw BadInput("{}: weight_map puts tensor {} into {}, shard {} holds it too", where, in_quotes(view.name),
                     in_quotes(listed->second), in_quotes(name));
    }
  }
  for (const auto& [tensor, shard] : weight_map) {
    if (shard == name && file.find(tensor) == nullptr) {
      throw BadInput("{}: weight_map: tensor {} is not in shard {}", where, in_quotes(tensor), in_quotes(name));
    }
  }
}

}  // namespace

void Checkpoint::open_shards(const fs::path& index, bool whole_folder) {
  const std::string where = index.string();
  const WeightMap weight_map = read_weight_map(index);
  const fs::path folder = index.parent_path();
  const std::set<std::string> present = names_with(folder.empty() ? "." : folder, kFileSuffix);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : weight_map) {
    if (!present.contains(shard)) {
      throw BadInput("{}: weight_map: shard {} of tensor {} is not in the folder", where, in_quotes(shard),
                     in_quotes(tensor));
    }
    shards.insert(shard);
  }
  for (const std::string& name : present) {
    if (!shards.contains(name) && (whole_folder || looks_like_shard_of(name, index))) {
      throw BadInput("{}: weight_map names no tensor of {}, which is in the folder", where, in_quotes(name));
    }
  }
  for (const std::string& name : shards) {
    check_link(folder / name, where);
    try {
      files_.emplace_back(folder / name);
    } catch (const BadInput& cause) {
      throw BadInput("{}: shard {}", where, cause.what());
    }
    check_shard(files_.back(), name, weight_map, where);
  }
}

Checkpoint Checkpoint::open(const fs::path& path) {
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    if (path.string().ends_with(kIndexSuffix)) {
      checkpoint.open_shards(path, false);
    } else {
      checkpoint.files_.emplace_back(path);
    }
    checkpoint.collect_tensors();
    return checkpoint;
  }

  const std::set<std::string> indices = names_with(path, kIndexSuffix);
  const std::set<std::string> files = names_with(path, kFileSuffix);
  if (indices.size() > 1) {
    throw BadInput("{}: holds {} index files, {} and {} among them: give one", path.string(), indices.size(),
                   in_quotes(*indices.begin()), in_quotes(*indices.rbegin()));
  }
  if (indices.size() == 1) {
    checkpoint.open_shards(path / *indices.begin(), true);
  } else if (files.size() == 1) {
    check_link(path / *files.begin(), path.string());
    checkpoint.files_.emplace_back(path / *files.begin());
  } else {
    throw BadInput(
        "{}: holds {} .safetensors files and no model.safetensors.index.json with a "
        "weight_map; one file or an index was expected",
        path.string(), files.size());
  }
  checkpoint.collect_tensors();
  return checkpoint;
}

void Checkpoint::collect_tensors() {
  for (const SafetensorsFile& file : files_) {
    for (const TensorView& view : file.tensors()) tensors_.push_back(&view);
  }
  std::ranges::sort(tensors_, {}, [](const TensorView* view) { return std::string_view(view->name); });
}

const TensorView* Checkpoint::find(std::string_view name) const {
  const auto found =
      std::ranges::lower_bound(tensors_, name, {}, [](const TensorView* view) { return std::string_view(view->name); });
  return found != tensors_.end() && (*found)->name == name ? *found : nullptr;
}

std::optional<fs::path> find_weights(const fs::path& folder, const std::string& single) {
  std::error_code ignored;
  for (const std::string& name : {single, single + ".index.json", std::string("model.safetensors.index.json")}) {
    if (fs::exists(folder / name, ignored)) return folder / name;
  }
  return std::nullopt;
}

}  // namespace unigrpo::io
