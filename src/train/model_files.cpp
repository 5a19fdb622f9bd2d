#include "train/model_files.h"

#include <unistd.h>

#include <ATen/ATen.h>

#include "base/error.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "tensor/convert.h"

namespace unigrpo::train {
namespace fs = std::filesystem;

void require_new_folder(const fs::path& folder, const std::string& key) {
  if (fs::exists(folder) && !(fs::is_directory(folder) && fs::is_empty(folder))) {
    throw BadInput("{}: {} exists and is not empty; remove it or give another folder", key, folder.string());
  }
}

void write_model_folder(const fs::path& source, const fs::path& destination,
                        const std::map<std::string, NamedTensors>& tensors,
                        const std::map<std::string, std::string>& texts) {
  const fs::path target = fs::absolute(destination).lexically_normal();
  const fs::path parent = target.has_filename() ? target.parent_path() : target.parent_path().parent_path();
  fs::create_directories(parent);
  const fs::path building = parent / (".tmp-model-" + std::to_string(getpid()));
  fs::remove_all(building);
  fs::create_directories(building);
  for (const auto& entry : fs::directory_iterator(source)) {
    const std::string name = entry.path().filename().string();
    if (!entry.is_regular_file() || tensors.contains(name) || texts.contains(name)) continue;
    fs::copy_file(entry.path(), building / name);
  }
  for (const auto& [name, list] : tensors) {
    NamedTensors stored;
    std::vector<io::TensorView> views;
    for (const NamedTensor& named : list) {
      stored.push_back({named.name, named.tensor.detach().to(at::kBFloat16).contiguous()});
    }
    for (const NamedTensor& named : stored) views.push_back(tensor::to_view(named.tensor, named.name));
    io::write_safetensors(building / name, views, {{"format", "pt"}});
  }
  for (const auto& [name, text] : texts) io::write_file_atomic(building / name, text);
  if (fs::exists(target)) fs::remove(target);  // an empty folder
  fs::rename(building, target);
  io::sync_folder(parent);
}

}  // namespace unigrpo::train
