#include "checkpoint/export_peft.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

constexpr std::string_view kConfigFile = "adapter_config.json";
constexpr std::string_view kWeightsFile = "adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr std::string_view kSuffixA = ".lora_A.weight";
constexpr std::string_view kSuffixB = ".lora_B.weight";

// The adapted modules, each with both halves of the adapter's rank. `where`: for errors.
std::vector<std::string> checked_modules(const optim::NamedParameters& tensors, int64_t rank, std::string_view where) {
  struct Pair {
    bool a = false;
    bool b = false;
  };
  std::map<std::string, Pair> pairs;
  for (const optim::NamedParameter& entry : tensors) {
    const std::string_view name = entry.name;
    const bool is_a = name.ends_with(kSuffixA);
    if (!is_a && !name.ends_with(kSuffixB)) {
      throw BadInput("{}: tensor '{}' is not named <module>{} or <module>{}", where, name, kSuffixA, kSuffixB);
    }
    const at::Tensor& tensor = entry.tensor;
    if (tensor.dim() != 2 || tensor.size(is_a ? 0 : 1) != rank || !tensor.is_floating_point()) {
      throw BadInput("{}: tensor '{}' must be floating-point {}, rank {}", where, name,
                     is_a ? "[rank, in]" : "[out, rank]", rank);
    }
    Pair& pair = pairs[std::string(name.substr(0, name.size() - kSuffixA.size()))];
    bool& seen = is_a ? pair.a : pair.b;
    if (seen) throw BadInput("{}: tensor '{}' occurs twice", where, name);
    seen = true;
  }
  std::vector<std::string> modules;
  for (const auto& [module, pair] : pairs) {
    if (!pair.a || !pair.b) throw BadInput("{}: module '{}' has no {}", where, module, pair.a ? "lora_B" : "lora_A");
    modules.push_back(module);
  }
  if (modules.empty()) throw BadInput("{}: holds no adapter", where);
  return modules;
}

nlohmann::json number(double value) {
  if (value == std::floor(value) && std::abs(value) < 1e15) return static_cast<int64_t>(value);
  return value;
}

// A key that may be absent or null, and otherwise must be one of the values under which the adapter is plain LoRA.
void require_plain(const nlohmann::json& config, const std::string& where, const char* key,
                   const std::vector<nlohmann::json>& plain) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return;
  if (std::find(plain.begin(), plain.end(), *found) == plain.end()) {
    throw BadInput("{}: {} is {}, only {} is supported", where, key, found->dump(), plain.front().dump());
  }
}

void check_targets(const nlohmann::json& config, const std::string& where, const std::vector<std::string>& modules) {
  const auto targets = config.find("target_modules");
  if (targets == config.end() || !targets->is_array()) return;  // a regular expression or "all-linear"
  for (const std::string& module : modules) {
    const bool named = std::any_of(targets->begin(), targets->end(), [&](const nlohmann::json& target) {
      if (!target.is_string()) throw BadInput("{}: target_modules must hold strings", where);
      const std::string text = target.get<std::string>();
      return module == text || module.ends_with("." + text);
    });
    if (!named) throw BadInput("{}: target_modules names no '{}', which {} holds", where, module, kWeightsFile);
  }
}

}  // namespace

void export_peft(const std::filesystem::path& destination, const LoraAdapter& adapter) {
  const at::NoGradGuard no_grad;
  const std::vector<std::string> modules = checked_modules(adapter.tensors, adapter.rank, destination.string());
  std::vector<at::Tensor> owned;
  std::vector<io::TensorView> views;
  for (const optim::NamedParameter& entry : adapter.tensors) {
    owned.push_back(entry.tensor.detach().cpu().contiguous());
    views.push_back(tensor::to_view(owned.back(), fmt::format("{}{}", kPrefix, entry.name)));
  }
  const nlohmann::json base = adapter.base_model.empty() ? nlohmann::json(nullptr) : nlohmann::json(adapter.base_model);
  const nlohmann::json config = {{"alpha_pattern", nlohmann::json::object()},
                                 {"auto_mapping", nullptr},
                                 {"base_model_name_or_path", base},
                                 {"bias", "none"},
                                 {"fan_in_fan_out", false},
                                 {"inference_mode", true},
                                 {"init_lora_weights", true},
                                 {"layers_pattern", nullptr},
                                 {"layers_to_transform", nullptr},
                                 {"lora_alpha", number(adapter.alpha)},
                                 {"lora_dropout", adapter.dropout},
                                 {"modules_to_save", nullptr},
                                 {"peft_type", "LORA"},
                                 {"r", adapter.rank},
                                 {"rank_pattern", nlohmann::json::object()},
                                 {"revision", nullptr},
                                 {"target_modules", modules},
                                 {"task_type", nullptr},
                                 {"use_dora", false},
                                 {"use_rslora", false}};
  build_folder(destination, [&](const std::filesystem::path& folder) {
    io::write_safetensors(folder / kWeightsFile, views, {{"format", "pt"}});
    io::write_file_atomic(folder / kConfigFile, config.dump(2) + "\n");
  });
}

LoraAdapter read_peft(const std::filesystem::path& folder) {
  const std::string where = (folder / kConfigFile).string();
  const nlohmann::json config = io::read_json_file(folder / kConfigFile, {.max_depth = 16}, size_t{16} << 20);
  LoraAdapter adapter;
  try {
    if (config.at("peft_type").get<std::string>() != "LORA") {
      throw BadInput("{}: peft_type is {}, expected \"LORA\"", where, config.at("peft_type").dump());
    }
    if (!config.at("r").is_number_integer()) throw BadInput("{}: r must be a whole number", where);
    adapter.rank = config.at("r").get<int64_t>();
    adapter.alpha = config.at("lora_alpha").get<double>();
    adapter.dropout = config.value("lora_dropout", 0.0);
    const auto base = config.find("base_model_name_or_path");
    if (base != config.end() && !base->is_null()) adapter.base_model = base->get<std::string>();
  } catch (const nlohmann::json::exception& error) {
    throw BadInput("{}: not an adapter's config: {}", where, error.what());
  }
  if (adapter.rank < 1) throw BadInput("{}: r is {}, at least 1 was expected", where, adapter.rank);
  if (!std::isfinite(adapter.alpha)) throw BadInput("{}: lora_alpha is not finite", where);
  require_plain(config, where, "use_rslora", {false});
  require_plain(config, where, "use_dora", {false});
  require_plain(config, where, "fan_in_fan_out", {false});
  require_plain(config, where, "lora_bias", {false});
  require_plain(config, where, "bias", {"none"});
  require_plain(config, where, "modules_to_save", {nlohmann::json::array()});
  require_plain(config, where, "rank_pattern", {nlohmann::json::object()});
  require_plain(config, where, "alpha_pattern", {nlohmann::json::object()});

  const io::SafetensorsFile file(folder / kWeightsFile);
  for (const io::TensorView& view : file.tensors()) {
    if (!view.name.starts_with(kPrefix)) {
      throw BadInput("{}: tensor '{}' does not begin with '{}'", file.path().string(), view.name, kPrefix);
    }
    adapter.tensors.push_back({view.name.substr(kPrefix.size()), tensor::to_tensor(view)});
  }
  check_targets(config, where, checked_modules(adapter.tensors, adapter.rank, file.path().string()));
  return adapter;
}

}  // namespace unigrpo::checkpoint
