#include "checkpoint/resume.h"

#include <ATen/ATen.h>

#include <charconv>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/log.h"
#include "base/text.h"
#include "io/checkpoint_layout.h"
#include "io/json.h"
#include "io/step_folder.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

void read_state(const std::filesystem::path& path, const io::Manifest& manifest, LoadedCheckpoint& checkpoint) {
  const nlohmann::json state = io::read_json_file(path);
  try {
    checkpoint.recipe_toml = state.at("recipe").get<std::string>();
    checkpoint.counters = state.at("counters").get<std::map<std::string, std::string>>();
    if (state.at("step").get<int64_t>() != manifest.step) {
      throw BadInput("{}: step is not its manifest's {}", path.string(), manifest.step);
    }
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not a checkpoint's state: {}", path.string(), error.what());
  }
}

}  // namespace

const io::SafetensorsFile& LoadedCheckpoint::part(std::string_view name) const {
  const auto found = parts.find(std::string(name));
  if (found == parts.end()) throw BadInput("{}: has no {}", folder.string(), io::part_file_name(name));
  return found->second;
}

optim::NamedParameters LoadedCheckpoint::tensors(std::string_view name) const {
  optim::NamedParameters result;
  for (const io::TensorView& view : part(name).tensors()) result.push_back({view.name, tensor::to_tensor(view)});
  return result;
}

int64_t LoadedCheckpoint::counter(const std::string& name) const {
  const std::string where = (folder / io::kStateFile).string();
  const auto found = counters.find(name);
  if (found == counters.end()) throw BadInput("{}: counter '{}' is missing", where, name);
  const std::string& text = found->second;
  int64_t value = 0;
  const auto result = std::from_chars(text.data(), text.data() + text.size(), value);
  if (result.ec != std::errc() || result.ptr != text.data() + text.size()) {
    throw BadInput("{}: counter '{}' is '{}', a whole number was expected", where, name, text);
  }
  return value;
}

void assign_converted(const optim::NamedParameters& parameters, optim::NamedParameters values,
                      const std::string& where) {
  const at::NoGradGuard no_grad;
  std::map<std::string, at::ScalarType> types;
  for (const optim::NamedParameter& own : parameters) types.emplace(own.name, own.tensor.scalar_type());
  for (optim::NamedParameter& value : values) {
    const auto own = types.find(value.name);  // absent: assign() tells
    if (own != types.end()) value.tensor = value.tensor.to(own->second);
  }
  optim::assign(parameters, values, where);
}

LoadedCheckpoint open_checkpoint(const std::filesystem::path& folder, Verify verify) {
  const io::Manifest manifest = io::read_manifest(folder / io::kManifestFile);
  const auto step = io::parse_step_name(folder.filename().string());
  if (step && *step != manifest.step) {
    throw BadInput("{}: is of step {}, not of the folder's", (folder / io::kManifestFile).string(), manifest.step);
  }
  if (verify == Verify::yes) io::verify_files(folder, manifest);
  LoadedCheckpoint checkpoint{.folder = folder, .step = manifest.step};
  read_state(folder / io::kStateFile, manifest, checkpoint);
  for (const io::Manifest::File& file : manifest.files) {
    const std::filesystem::path name = file.name;
    if (name.extension() != ".safetensors") continue;
    checkpoint.parts.emplace(name.stem().string(), io::SafetensorsFile(folder / name));
  }
  return checkpoint;
}

std::optional<LoadedCheckpoint> newest_checkpoint(const std::filesystem::path& folder,
                                                  const std::function<void(const std::filesystem::path&)>& on_damaged) {
  const std::vector<int64_t> steps = io::list_steps(folder);
  std::vector<std::filesystem::path> damaged;
  std::string first_damage;
  for (auto step = steps.rbegin(); step != steps.rend(); ++step) {
    const std::filesystem::path path = folder / io::step_name(*step);
    try {
      LoadedCheckpoint checkpoint = open_checkpoint(path);
      if (!damaged.empty()) {
        log::warn(fmt::format("resuming from step {}, not from the newest checkpoint, which does not verify: {}",
                              checkpoint.step, first_damage));
      }
      for (const std::filesystem::path& other : damaged) {
        if (on_damaged) on_damaged(other);
      }
      return checkpoint;
    } catch (const BadInput& error) {
      log::warn(error.what());
      if (first_damage.empty()) first_damage = error.what();
      damaged.push_back(path);
    }
  }
  if (damaged.empty()) return std::nullopt;
  throw BadInput("{}: none of {} checkpoints verifies; the newest: {}", folder.string(), damaged.size(), first_damage);
}

}  // namespace unigrpo::checkpoint
