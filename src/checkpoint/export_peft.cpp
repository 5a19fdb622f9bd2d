#include "checkpoint/export_peft.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <regex>
#include <set>
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

// How the halves of a module's pair are named: A [rank, in], B [out, rank].
struct PairNames {
  std::string_view a, b;
};
constexpr PairNames kPairs[] = {{".lora_A.weight", ".lora_B.weight"}, {".lora_embedding_A", ".lora_embedding_B"}};

// The adapted modules, each with both halves of the adapter's rank. `where`: for errors.
std::vector<std::string> checked_modules(const optim::NamedParameters& tensors, int64_t rank, std::string_view where) {
  struct Pair {
    bool a = false;
    bool b = false;
  };
  std::map<std::string, Pair> pairs;
  for (const optim::NamedParameter& entry : tensors) {
    const std::string_view name = entry.name;
    const auto* names = std::ranges::find_if(
        kPairs, [&](const PairNames& pair) { return name.ends_with(pair.a) || name.ends_with(pair.b); });
    if (names == std::end(kPairs)) {
      throw BadInput("{}: tensor '{}' is not named <module>{} or <module>{}", where, name, kPairs[0].a, kPairs[0].b);
    }
    const bool is_a = name.ends_with(names->a);
    const at::Tensor& tensor = entry.tensor;
    if (tensor.dim() != 2 || tensor.size(is_a ? 0 : 1) != rank || !tensor.is_floating_point()) {
      throw BadInput("{}: tensor '{}' must be floating-point {}, rank {}", where, name,
                     is_a ? "[rank, in]" : "[out, rank]", rank);
    }
    Pair& pair = pairs[std::string(name.substr(0, name.size() - names->a.size()))];
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

// Whether a setting says no more than its absence would.
bool is_off(const nlohmann::json& value) {
  return value.is_null() || value == false || (value.is_structured() && value.empty());
}

// Keys of adapter_config.json that may have any value: they are read here, describe, or act in training alone.
constexpr std::string_view kFree[] = {"auto_mapping",
                                      "base_model_name_or_path",
                                      "corda_config",
                                      "ensure_weight_tying",
                                      "eva_config",
                                      "exclude_modules",
                                      "inference_mode",
                                      "init_lora_weights",
                                      "layers_pattern",
                                      "layers_to_transform",
                                      "loftq_config",
                                      "lora_alpha",
                                      "lora_dropout",
                                      "lora_ga_config",
                                      "megatron_core",
                                      "peft_type",
                                      "peft_version",
                                      "qalora_group_size",
                                      "r",
                                      "revision",
                                      "runtime_config",
                                      "target_modules",
                                      "task_type"};
// An adapter is W + (alpha / rank) B A on the base as it is. Each key that could make it something else must be off;
// so must one that we do not know, since it may.
void require_plain(const nlohmann::json& config, const std::string& where) {
  for (const auto& [key, value] : config.items()) {
    if (std::ranges::find(kFree, key) != std::end(kFree) || is_off(value)) continue;
    if (key == "bias" && value == "none") continue;
    throw BadInput("{}: {} is {}, only {} is supported", where, key, value.dump(),
                   key == "bias"               ? "\"none\""
                   : value.is_boolean()        ? "false"
                   : value.is_array()          ? "[]"
                   : key.ends_with("_pattern") ? "{}"
                                               : "null");
  }
}

// Initialisations that take their share out of the base's weights: on the base as it is the adapter adds it again.
// Source: tuners/lora/layer.py and config.py of PEFT 0.21, which leaves the base alone for the values that pass.
void require_unchanged_base(const nlohmann::json& config, const std::string& where) {
  const auto found = config.find("init_lora_weights");
  if (found == config.end() || found->is_null() || found->is_boolean()) return;
  std::string value = found->is_string() ? found->get<std::string>() : "";
  for (char& c : value) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  for (const std::string_view passes : {"gaussian", "eva", "orthogonal", "mica"}) {
    if (value == passes) return;
  }
  if (value == "loftq") {
    throw BadInput(
        "{}: init_lora_weights is {}, which replaced the base's weights by quantized ones; in PEFT, "
        "merge_and_unload() and save_pretrained() write base and adapter as one model",
        where, found->dump());
  }
  const bool converts = value.starts_with("pissa") || value == "olora" || value == "corda" || value == "lora_ga";
  if (!converts) {
    throw BadInput(
        "{}: init_lora_weights is {}; expected true, false, \"gaussian\", \"eva\", \"orthogonal\" or \"mica\"", where,
        found->dump());
  }
  throw BadInput(
      "{}: init_lora_weights is {}, which changed the base's weights; convert it in PEFT: save_pretrained(FOLDER, "
      "path_initial_model_for_weight_conversion=INITIAL_ADAPTER) writes plain LoRA",
      where, found->dump());
}

std::vector<std::string> strings_of(const nlohmann::json& value, const std::string& where, const char* key) {
  std::vector<std::string> strings;
  for (const nlohmann::json& item : value.is_array() ? value : nlohmann::json::array({value})) {
    if (!item.is_string()) throw BadInput("{}: {} must hold strings", where, key);
    strings.push_back(item.get<std::string>());
  }
  return strings;
}

// Whether a list of names, or a regular expression over the whole of a name, takes in the module. Unset: `unset`.
bool takes_in(const nlohmann::json& config, const std::string& where, const char* key, const std::string& module,
              bool unset) {
  const auto found = config.find(key);
  if (found == config.end() || is_off(*found)) return unset;
  if (found->is_string()) {
    const auto text = found->get<std::string>();
    if (text == "all-linear") return true;
    try {
      return std::regex_match(module, std::regex(text, std::regex::ECMAScript));
    } catch (const std::regex_error&) {
      return unset;  // Python's syntax beyond this one's: the tensors say which modules there are
    }
  }
  return std::ranges::any_of(strings_of(*found, where, key),
                             [&](const std::string& name) { return module == name || module.ends_with("." + name); });
}

// The layer that a module stands in, as PEFT's layers_to_transform counts: the first number in its name, behind one of
// the words where there are some.
std::optional<int64_t> layer_of(const std::string& module, const std::vector<std::string>& words) {
  std::vector<std::string> parts;
  for (size_t begin = 0; begin <= module.size();) {
    const size_t end = std::min(module.find('.', begin), module.size());
    parts.push_back(module.substr(begin, end - begin));
    begin = end + 1;
  }
  for (size_t i = 1; i + 1 < parts.size(); ++i) {
    const bool number =
        !parts[i].empty() && parts[i].size() < 10 && parts[i].find_first_not_of("0123456789") == std::string::npos;
    if (!number || (!words.empty() && std::ranges::find(words, parts[i - 1]) == words.end())) continue;
    return std::stoll(parts[i]);
  }
  return std::nullopt;
}

void check_layers(const nlohmann::json& config, const std::string& where, const std::vector<std::string>& modules) {
  const auto found = config.find("layers_to_transform");
  if (found == config.end() || is_off(*found)) return;
  std::set<int64_t> layers;
  for (const nlohmann::json& layer : found->is_array() ? *found : nlohmann::json::array({*found})) {
    if (!layer.is_number_integer()) throw BadInput("{}: layers_to_transform must hold whole numbers", where);
    layers.insert(layer.get<int64_t>());
  }
  const auto pattern = config.find("layers_pattern");
  const auto words = pattern == config.end() || is_off(*pattern) || *pattern == ""
                         ? std::vector<std::string>()
                         : strings_of(*pattern, where, "layers_pattern");
  std::set<int64_t> held;
  for (const std::string& module : modules) {
    const auto layer = layer_of(module, words);
    if (!layer || !layers.contains(*layer)) {
      throw BadInput("{}: layers_to_transform is {} and leaves out '{}', which {} holds", where, found->dump(), module,
                     kWeightsFile);
    }
    held.insert(*layer);
  }
  for (const int64_t layer : layers) {
    if (held.contains(layer)) continue;
    throw BadInput("{}: layers_to_transform names layer {}, of which {} holds nothing", where, layer, kWeightsFile);
  }
}

// The rules of the config by which PEFT finds the modules to adapt must name those that the file holds.
void check_targets(const nlohmann::json& config, const std::string& where, const std::vector<std::string>& modules) {
  for (const std::string& module : modules) {
    if (!takes_in(config, where, "target_modules", module, true)) {
      throw BadInput("{}: target_modules names no '{}', which {} holds", where, module, kWeightsFile);
    }
    if (takes_in(config, where, "exclude_modules", module, false)) {
      throw BadInput("{}: exclude_modules names '{}', which {} holds", where, module, kWeightsFile);
    }
  }
  check_layers(config, where, modules);
}

}  // namespace

void export_peft(const std::filesystem::path& destination, const LoraAdapter& adapter, const PeftOptions& options) {
  const at::NoGradGuard no_grad;
  const std::vector<std::string> modules = checked_modules(adapter.tensors, adapter.rank, destination.string());
  std::vector<at::Tensor> owned;
  std::vector<io::TensorView> views;
  for (const optim::NamedParameter& entry : adapter.tensors) {
    owned.push_back(entry.tensor.detach().cpu().contiguous());
    views.push_back(tensor::to_view(owned.back(), fmt::format("{}{}", kPrefix, entry.name)));
  }
  const nlohmann::json base = adapter.base_model.empty() ? nlohmann::json(nullptr) : nlohmann::json(adapter.base_model);
  const nlohmann::json task = options.task_type.empty() ? nlohmann::json(nullptr) : nlohmann::json(options.task_type);
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
                                 {"task_type", task},
                                 {"use_dora", false},
                                 {"use_rslora", false}};
  build_folder(destination, [&](const std::filesystem::path& folder) {
    io::write_safetensors(folder / kWeightsFile, views, {{"format", "pt"}});
    io::write_file_atomic(folder / kConfigFile, config.dump(2) + "\n");
    if (options.generation_config) io::write_file_atomic(folder / "generation_config.json", *options.generation_config);
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
  require_unchanged_base(config, where);
  require_plain(config, where);

  const io::SafetensorsFile file(folder / kWeightsFile);
  for (const io::TensorView& view : file.tensors()) {
    if (!view.name.starts_with(kPrefix)) {
      throw BadInput("{}: tensor '{}' does not begin with '{}'", file.path().string(), view.name, kPrefix);
    }
    const std::string name = view.name.substr(kPrefix.size());
    constexpr std::string_view kBase = ".base_layer.weight", kWeight = ".weight";
    if (name.ends_with(kBase)) {
      const std::string module = name.substr(0, name.size() - kBase.size());
      adapter.base_weights.push_back({fmt::format("{}{}", module, kWeight), tensor::to_tensor(view)});
    } else if (name.ends_with(kWeight) && name.find(".lora_") == std::string::npos) {
      adapter.base_weights.push_back({name, tensor::to_tensor(view)});
    } else {
      adapter.tensors.push_back({name, tensor::to_tensor(view)});
    }
  }
  check_targets(config, where, checked_modules(adapter.tensors, adapter.rank, file.path().string()));
  return adapter;
}

}  // namespace unigrpo::checkpoint
