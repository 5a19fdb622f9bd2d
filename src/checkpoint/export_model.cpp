#include "checkpoint/export_model.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <functional>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/error.h"
#include "checkpoint/build_folder.h"
#include "checkpoint/export_ltx2.h"
#include "checkpoint/resume.h"
#include "checkpoint/write_weights.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/mapped_file.h"
#include "io/model_folder.h"
#include "io/safetensors_stream.h"
#include "policy/family.h"
#include "policy/paired/paired.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kTransformer = "transformer.";  // of a pipeline's parameters
constexpr std::string_view kAutoencoderFile = "ae.safetensors";
constexpr size_t kCopiedBytes = size_t{16} << 20;  // at a time
// Beside io::kModelFiles. Whatever else lies in a model folder (a README, samples, caches) is about the source, not
// about the export.
constexpr std::array<std::string_view, 2> kNotices = {"LICENSE", "NOTICE"};

at::ScalarType target_type(at::ScalarType own, const ExportOptions& options) {
  return at::isFloatingType(own) ? options.dtype.value_or(own) : own;
}

LazyWeight in_memory(const optim::NamedParameter& weight) {
  return {.name = weight.name,
          .shape = weight.tensor.sizes().vec(),
          .dtype = weight.tensor.scalar_type(),
          .make = [tensor = weight.tensor](const io::TensorView* /*source*/, const LazyWeight::Take& take) {
            take(tensor);
          }};
}

std::vector<LazyWeight> in_memory(const optim::NamedParameters& weights) {
  std::vector<LazyWeight> lazy;
  for (const optim::NamedParameter& weight : weights) lazy.push_back(in_memory(weight));
  return lazy;
}

// `source`: null, or what the source has under this name.
io::StreamedTensor streamed(const LazyWeight& weight, const io::TensorView* source, at::ScalarType type) {
  return {.name = weight.name,
          .dtype = tensor::to_dtype(type),
          .shape = weight.shape,
          .write = [make = weight.make, source, type](const io::StreamedTensor::Put& put) {
            make(source, [&](const at::Tensor& elements) {
              const at::Tensor values = elements.detach().to(at::kCPU, type).contiguous();
              put(tensor::to_view(values, "").bytes);
            });
          }};
}

// Byte for byte.
io::StreamedTensor copied(const io::TensorView& view) {
  return {.name = view.name,
          .dtype = view.dtype,
          .shape = view.shape,
          .write = [&view](const io::StreamedTensor::Put& put) {
            for (size_t at = 0; at < view.bytes.size(); at += kCopiedBytes) {
              const auto bytes = view.bytes.subspan(at, std::min(kCopiedBytes, view.bytes.size() - at));
              put(bytes);
              io::forget_pages(bytes);
            }
          }};
}

using Output = std::vector<io::StreamedTensor>;

// The source's tensors with values from `weights` where given, but for those that `left_out` names; `weights` alone
// where there is no source.
Output collect(
    const io::Checkpoint* source, const std::vector<LazyWeight>& weights, const ExportOptions& options,
    const std::function<bool(const std::string&)>& left_out = [](const std::string&) { return false; }) {
  Output output;
  if (source == nullptr) {
    for (const LazyWeight& weight : weights) {
      output.push_back(streamed(weight, nullptr, target_type(weight.dtype, options)));
    }
    return output;
  }
  const std::string where = source->path().string();
  std::unordered_map<std::string_view, const LazyWeight*> by_name;
  for (const LazyWeight& weight : weights) {
    const io::TensorView* view = source->find(weight.name);
    if (view == nullptr) throw BadInput("{}: has no tensor '{}', which was to be exported", where, weight.name);
    if (weight.shape != view->shape) {
      throw BadInput("{}: tensor '{}' has shape [{}], the weight to export has [{}]", where, weight.name,
                     fmt::join(view->shape, ", "), fmt::join(weight.shape, ", "));
    }
    by_name.emplace(weight.name, &weight);
  }
  for (const io::TensorView* view : source->tensors()) {
    if (left_out(view->name)) continue;
    const at::ScalarType own = tensor::to_scalar_type(view->dtype);
    const at::ScalarType type = target_type(own, options);
    const auto weight = by_name.find(view->name);
    if (weight != by_name.end()) {
      output.push_back(streamed(*weight->second, view, type));
    } else if (type == own) {
      output.push_back(copied(*view));
    } else {
      const auto make = [](const io::TensorView* of_source, const LazyWeight::Take& take) {
        for_each_run(mapped(*of_source), take);
      };
      output.push_back(streamed({.name = view->name, .shape = view->shape, .dtype = own, .make = make}, view, type));
    }
  }
  return output;
}

std::map<std::string, std::string> joined_metadata(const io::Checkpoint* source, const ExportOptions& options) {
  std::map<std::string, std::string> metadata = options.metadata;
  if (source != nullptr) metadata.insert(source->metadata().begin(), source->metadata().end());
  metadata.emplace("format", "pt");  // what transformers' reader asks for
  return metadata;
}

// The keys by which transformers, from 5 on and before, finds the type of a model's weights.
constexpr const char* kTypeKeys[] = {"dtype", "torch_dtype"};

// Makes the config, and the configs of its parts within it, name this type where they name one. Whether it names one
// for the language model.
bool name_type(nlohmann::ordered_json& config, const std::string& type) {
  bool named = false;
  for (const char* key : kTypeKeys) {
    const auto found = config.find(key);
    if (found == config.end() || !found->is_string()) continue;
    *found = type;
    named = true;
  }
  for (const char* part : {"llm_config", "text_config", "vit_config", "vision_config"}) {
    const auto found = config.find(part);
    if (found == config.end() || !found->is_object()) continue;
    const bool inner = name_type(*found, type);
    named = named || (inner && (std::string_view(part) == "llm_config" || std::string_view(part) == "text_config"));
  }
  return named;
}

// A config for weights of this type: the source's bytes where they say so already.
void write_typed_config(const fs::path& from, const fs::path& to, at::ScalarType type) {
  io::read_json_file(from);  // strictly, for its errors; the tree below keeps the order of keys
  const auto source = nlohmann::ordered_json::parse(io::read_text_file(from));
  nlohmann::ordered_json config = source;
  const std::string name = type == at::kBFloat16 ? "bfloat16" : type == at::kHalf ? "float16" : "float32";
  const bool named = config.is_object() && name_type(config, name);
  if (!named && from.filename() == "config.json" && config.is_object()) config["torch_dtype"] = name;
  if (config == source) {
    io::copy_file_atomic(from, to);
  } else {
    io::write_file_atomic(to, config.dump(2) + "\n");
  }
}

// `typed`: the folder's weights are written in options.dtype.
void write_configs(const fs::path& source_folder, const fs::path& folder, const ExportOptions& options, bool typed) {
  for (const std::string_view name : kNotices) {
    if (fs::exists(source_folder / name)) io::copy_file_atomic(source_folder / name, folder / name);
  }
  for (const std::string_view name : io::kModelFiles) {
    if (!fs::exists(source_folder / name)) continue;
    const bool names_type = name == "config.json" || name == "llm_config.json" || name == "vit_config.json";
    if (typed && names_type && options.dtype) {
      write_typed_config(source_folder / name, folder / name, *options.dtype);
    } else {
      io::copy_file_atomic(source_folder / name, folder / name);
    }
  }
  if (options.generation_config) {
    io::write_file_atomic(folder / io::kGenerationConfig, *options.generation_config);
  } else if (fs::exists(source_folder / io::kGenerationConfig)) {
    io::copy_file_atomic(source_folder / io::kGenerationConfig, folder / io::kGenerationConfig);
  }
}

// One model, of `family`, into a folder that is there.
void write_model(const fs::path& source_folder, const policy::Family& family, const fs::path& folder,
                 const std::vector<LazyWeight>& weights, const ExportOptions& options) {
  std::optional<io::Checkpoint> source;
  if (const auto path = io::find_weights(source_folder, family.weights_file)) source = io::Checkpoint::open(*path);
  const io::Checkpoint* source_weights = source ? &*source : nullptr;
  const policy::MotConfig llm = family.read_sizes(source_folder).llm;
  const Output output = collect(source_weights, weights, options,
                                [&](const std::string& name) { return policy::is_tied_copy(llm, name); });

  const fs::path autoencoder_path = source_folder / kAutoencoderFile;
  std::optional<io::Checkpoint> autoencoder;
  if (fs::exists(autoencoder_path)) autoencoder = io::Checkpoint::open(autoencoder_path);

  write_configs(source_folder, folder, options, !output.empty());
  if (!options.autoencoder.empty()) {
    const io::Checkpoint* original = autoencoder ? &*autoencoder : nullptr;
    const Output values = collect(original, in_memory(options.autoencoder), options);
    io::write_streamed(folder / kAutoencoderFile, values, joined_metadata(original, options));
  } else if (autoencoder) {
    io::copy_file_atomic(autoencoder_path, folder / kAutoencoderFile);
  }
  if (!output.empty()) {
    write_weights(folder, output,
                  {.name = family.weights_file,
                   .shard_bytes = options.shard_bytes,
                   .metadata = joined_metadata(source_weights, options),
                   .stop = options.stop});
  }
}

// The weights whose names start with `prefix`, without it.
std::vector<LazyWeight> of_half(const std::vector<LazyWeight>& weights, std::string_view prefix) {
  std::vector<LazyWeight> own;
  for (const LazyWeight& weight : weights) {
    if (!weight.name.starts_with(prefix)) continue;
    own.push_back(weight);
    own.back().name = weight.name.substr(prefix.size());
  }
  return own;
}

// A diffusers pipeline of which the transformer was trained.
void write_pipeline(const fs::path& source_folder, const fs::path& folder, const std::vector<LazyWeight>& weights,
                    const ExportOptions& options) {
  constexpr const char* kStem = "diffusion_pytorch_model";
  for (const LazyWeight& weight : weights) {
    if (weight.name.starts_with(kTransformer)) continue;
    throw BadInput("{}: has no tensor '{}', which was to be exported", source_folder.string(), weight.name);
  }
  copy_around_transformer(source_folder, folder, options.stop);
  write_configs(source_folder, folder, options, false);
  const std::string file = std::string(kStem) + ".safetensors";
  const auto source = io::Checkpoint::open(*io::find_weights(source_folder / "transformer", file));
  write_weights(folder / "transformer", collect(&source, of_half(weights, kTransformer), options),
                {.name = file,
                 .shards = kStem,
                 .shard_bytes = options.shard_bytes,
                 .metadata = joined_metadata(&source, options),
                 .stop = options.stop});
  io::sync_folder(folder / "transformer");
}

// Both models of a pair into folders of their own.
void write_pair(const fs::path& source_folder, const fs::path& folder, const std::vector<LazyWeight>& weights,
                const ExportOptions& options) {
  const policy::PairFolders halves = policy::read_pair_config(source_folder);
  for (const LazyWeight& weight : weights) {
    if (weight.name.starts_with(policy::kTextPrefix) || weight.name.starts_with(policy::kImagePrefix)) continue;
    throw BadInput("{}: has no tensor '{}', which was to be exported", source_folder.string(), weight.name);
  }
  write_configs(source_folder, folder, options, false);
  auto write_half = [&](const std::string& name, std::string_view prefix, const optim::NamedParameters& autoencoder) {
    ExportOptions own = options;
    own.generation_config = {};
    own.autoencoder = autoencoder;
    fs::create_directory(folder / name);
    write_model(source_folder / name, policy::family_of(source_folder / name), folder / name, of_half(weights, prefix),
                own);
    io::sync_folder(folder / name);
  };
  write_half(halves.text, policy::kTextPrefix, {});
  write_half(halves.image, policy::kImagePrefix, options.autoencoder);
}

}  // namespace

void export_model(const fs::path& source_model_folder, const fs::path& destination,
                  const optim::NamedParameters& weights, const ExportOptions& options) {
  export_lazily(source_model_folder, destination, in_memory(weights), options);
}

void export_lazily(const fs::path& source_model_folder, const fs::path& destination,
                   const std::vector<LazyWeight>& weights, const ExportOptions& options) {
  const at::NoGradGuard no_grad;
  if (!fs::exists(source_model_folder / "config.json") && !fs::exists(source_model_folder / "model_index.json")) {
    throw BadInput("{}: no config.json; not a model folder", source_model_folder.string());
  }
  const policy::Family& family = policy::family_of(source_model_folder);
  build_folder(destination, [&](const fs::path& folder) {
    if (family.name == policy::kLtx2) {
      write_pipeline(source_model_folder, folder, weights, options);
    } else if (family.weights_file == nullptr) {
      write_pair(source_model_folder, folder, weights, options);
    } else {
      write_model(source_model_folder, family, folder, weights, options);
    }
  });
}

}  // namespace unigrpo::checkpoint
