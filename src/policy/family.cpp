#include "policy/family.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "base/paths.h"
#include "base/text.h"
#include "policy/bagel/bagel.h"
#include "policy/ltx2/ltx2.h"
#include "policy/paired/paired.h"
#include "policy/qwen2/qwen2.h"

namespace unigrpo::policy {
namespace {

template <typename Model>
std::unique_ptr<UnifiedPolicy> load_model(const PolicyConfig& config, const Runtime& runtime) {
  return Model::load(config, runtime);
}

constexpr Family kFamilies[] = {{.name = "bagel",
                                 .folder = "a BAGEL folder",
                                 .architecture = "BagelForConditionalGeneration",
                                 .marker = "llm_config.json",
                                 .weights_file = "ema.safetensors",
                                 .generates_images = true,
                                 .load = load_model<Bagel>,
                                 .read_sizes = Bagel::read_sizes,
                                 .sampling_defaults = Bagel::sampling_defaults},
                                {.name = "qwen2",
                                 .folder = "a Qwen2.5 folder",
                                 .architecture = "Qwen2ForCausalLM",
                                 .marker = "",
                                 .weights_file = "model.safetensors",
                                 .generates_images = false,
                                 .load = load_model<Qwen2>,
                                 .read_sizes = Qwen2::read_sizes,
                                 .sampling_defaults = Qwen2::sampling_defaults},
                                {.name = "unigrpo_pair",
                                 .folder = "a pair of models",
                                 .architecture = "",
                                 .marker = "",
                                 .weights_file = nullptr,
                                 .generates_images = true,
                                 .load = load_model<Paired>,
                                 .read_sizes = Paired::read_sizes,
                                 .sampling_defaults = Paired::sampling_defaults},
                                {.name = kLtx2,
                                 .folder = "an LTX-2 folder",
                                 .architecture = "",
                                 .marker = "",
                                 .weights_file = nullptr,
                                 .generates_images = false,
                                 .generates_clips = true,
                                 .load = load_model<Ltx2>,
                                 .read_sizes = Ltx2::read_sizes,
                                 .sampling_defaults = Ltx2::sampling_defaults}};

const Family* find_family(std::string_view Family::*key, std::string_view value) {
  const auto found = std::ranges::find(kFamilies, value, key);
  return found == std::end(kFamilies) || value.empty() ? nullptr : found;
}

std::string expected_types() {
  std::vector<std::string> types;
  for (const Family& family : kFamilies) {
    if (family.name != kLtx2) types.push_back(fmt::format("\"{}\" ({})", family.name, family.folder));
  }
  return join(types, ", ");
}

/// Folders that are taken for a model's: the way that works.
void refuse_other_folder(const std::filesystem::path& folder) {
  const auto has = [&](const char* name) { return std::filesystem::exists(folder / name); };
  const std::string where = folder.string();
  if (has("recipe.toml")) {
    std::string models;
    for (const char* name : {"final", "best"}) {
      if (std::filesystem::exists(folder / name / "config.json"))
        models += fmt::format("{}, ", (folder / name).string());
    }
    throw BadInput("{}: a run folder, not a model; give {}{}", where, models.empty() ? "" : models + "or ",
                   fmt::format("what `unigrpo export --run {} --out MODEL` writes", where));
  }
  if (has("manifest.json") && has("state.json")) {
    throw BadInput("{}: a run's checkpoint, not a model; `unigrpo export --run RUN --step N --out MODEL` writes one",
                   where);
  }
  if (has("adapter_config.json")) {
    throw BadInput("{}: an adapter, not a model; give its base as the model and this as --adapter", where);
  }
}

}  // namespace

const Family& family_of(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw BadInput("{}: not a model folder (expected a folder with config.json){}", folder.string(),
                   std::filesystem::exists(folder) ? "" : seen_from(folder));
  }
  if (!std::filesystem::exists(folder / "config.json")) {
    // A diffusers folder says what it is in a file of its own.
    if (std::filesystem::exists(folder / "model_index.json")) return *find_family(&Family::name, kLtx2);
    refuse_other_folder(folder);
  }
  const auto section = io::JsonSection::open(folder / "config.json");
  if (section.has("model_type")) {
    const std::string type = section.text("model_type", "");
    if (const Family* family = find_family(&Family::name, type); family != nullptr && type != kLtx2) return *family;
    throw BadInput("{}: 'model_type' is \"{}\"; expected one of {}", section.where(), type, expected_types());
  }
  if (section.has("architectures")) {
    const nlohmann::json& names = section.at("architectures");
    const bool named = names.is_array() && !names.empty() && names[0].is_string();
    const Family* family = named ? find_family(&Family::architecture, names[0].get<std::string>()) : nullptr;
    if (family != nullptr) return *family;
    std::vector<std::string> known;
    for (const Family& one : kFamilies) {
      if (!one.architecture.empty()) known.push_back(fmt::format("[\"{}\"]", one.architecture));
    }
    throw BadInput("{}: 'architectures' is {}; expected {}", section.where(), names.dump(), join(known, " or "));
  }
  for (const Family& family : kFamilies) {
    if (!family.marker.empty() && std::filesystem::exists(folder / family.marker)) return family;
  }
  throw BadInput("{}: 'model_type' is missing; expected one of {}", section.where(), expected_types());
}

void require_family(const std::filesystem::path& folder, std::string_view name) {
  const Family& family = family_of(folder);
  if (family.name == name) return;
  throw BadInput("{}: a {} model; this needs {}", folder.string(), family.name,
                 find_family(&Family::name, name)->folder);
}

}  // namespace unigrpo::policy
