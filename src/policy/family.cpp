#include "policy/family.h"

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "policy/config_section.h"

namespace unigrpo::policy {

Family family_of(const std::filesystem::path& folder) {
  if (!std::filesystem::is_directory(folder)) {
    throw BadInput("{}: not a model folder (expected a folder with config.json)", folder.string());
  }
  const nlohmann::json root = read_config_file(folder / "config.json");
  const ConfigSection section(root, (folder / "config.json").string());
  constexpr const char* kExpected = "expected \"bagel\", or \"qwen2\" for Qwen2.5, or \"unigrpo_pair\"";
  if (section.has("model_type")) {
    const std::string type = section.text("model_type", "");
    if (const auto family = enum_value<Family>(type)) return *family;
    throw BadInput("{}: 'model_type' is \"{}\"; {}", section.file(), type, kExpected);
  }
  if (section.has("architectures")) {
    const nlohmann::json& names = section.object()["architectures"];
    const std::string name =
        names.is_array() && !names.empty() && names[0].is_string() ? names[0].get<std::string>() : "";
    if (name.starts_with("Bagel")) return Family::bagel;
    if (name == "Qwen2ForCausalLM") return Family::qwen2;
    throw BadInput("{}: 'architectures' is {}; expected [\"BagelForConditionalGeneration\"] or [\"Qwen2ForCausalLM\"]",
                   section.file(), names.dump());
  }
  if (std::filesystem::exists(folder / "llm_config.json")) return Family::bagel;
  throw BadInput("{}: 'model_type' is missing; {}", section.file(), kExpected);
}

const char* weights_file(Family family) {
  if (family == Family::pair) throw std::invalid_argument("a pair of models has no weights of its own");
  return family == Family::bagel ? "ema.safetensors" : "model.safetensors";
}

std::optional<std::filesystem::path> find_weights(const std::filesystem::path& folder, Family family) {
  const std::string single = weights_file(family);
  for (const std::string& name : {single, single + ".index.json", std::string("model.safetensors.index.json")}) {
    if (std::filesystem::exists(folder / name)) return folder / name;
  }
  return std::nullopt;
}

}  // namespace unigrpo::policy
