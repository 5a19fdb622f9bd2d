#include "policy/ltx2/model.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <type_traits>

#include "base/error.h"
#include "io/class_config.h"
#include "io/json.h"
#include "io/model_folder.h"
#include "policy/ltx2/fresh_weight.h"
#include "video/lapped.h"

namespace unigrpo::policy::ltx2 {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr const char* kWeights = "diffusion_pytorch_model.safetensors";

/// Component to the classes that may stand there. Those of text are somebody else's: nobody opens them here.
const std::map<std::string, std::set<std::string>> kClasses = {
    {"transformer", {"LTX2VideoTransformer3DModel"}},
    {"connectors", {"LTX2TextConnectors"}},
    {"vae", {"AutoencoderKLLTX2Video"}},
    {"audio_vae", {"AutoencoderKLLTX2Audio"}},
    {"vocoder", {"LTX2Vocoder", "LTX2VocoderWithBWE"}},
    {"scheduler", {"FlowMatchEulerDiscreteScheduler"}},
    {"latent_upsampler", {"LTX2LatentUpsamplerModel"}},
    {"text_encoder", {"UniGRPOTextEncoder", "Gemma3ForConditionalGeneration", "Gemma4UnifiedForConditionalGeneration"}},
    {"tokenizer", {"GemmaTokenizer", "GemmaTokenizerFast"}},
    {"processor", {"Gemma3Processor", "Gemma4Processor", "Gemma4UnifiedProcessor"}},
    {"prompt_enhancer", {"Gemma4ForConditionalGeneration"}},
    {"duration_head", {"LTX2DurationHead"}},
};
constexpr const char* kNeeded[] = {"transformer", "connectors", "vae", "audio_vae", "vocoder", "scheduler"};

}  // namespace

std::map<std::string, std::string> read_model_index(const fs::path& folder) {
  const fs::path file = folder / "model_index.json";
  const std::string where = file.string();
  const json root = io::read_json_file(file, {}, size_t{1} << 20);
  if (!root.is_object()) throw BadInput("{}: expected a JSON object, got {}", where, root.type_name());
  const json pipeline = root.value("_class_name", json());
  if (pipeline != "LTX2Pipeline" && pipeline != "LTX2ImageToVideoPipeline" && pipeline != "LTX2ConditionPipeline") {
    throw BadInput("{}: '_class_name' is {}, expected \"LTX2Pipeline\"", where, pipeline.dump().substr(0, 80));
  }
  std::map<std::string, std::string> index;
  for (const auto& [name, entry] : root.items()) {
    if (name.starts_with('_')) continue;
    const auto known = kClasses.find(name);
    if (known == kClasses.end()) throw BadInput("{}: '{}' is not a component of LTX-2", where, name);
    const bool pair = entry.is_array() && entry.size() == 2;
    if (pair && entry[0].is_null() && entry[1].is_null()) continue;
    if (!pair || !entry[0].is_string() || !entry[1].is_string()) {
      throw BadInput("{}: '{}' must be a library and a class, got {}", where, name, entry.dump().substr(0, 80));
    }
    const std::string type = entry[1].get<std::string>();
    if (!known->second.contains(type)) {
      throw BadInput("{}: '{}' is of class \"{}\", expected \"{}\"", where, name, type.substr(0, 80),
                     *known->second.begin());
    }
    index.emplace(name, type);
  }
  for (const char* name : kNeeded) {
    if (!index.contains(name)) throw BadInput("{}: '{}' is missing", where, name);
  }
  return index;
}

flow::ShiftedGrid read_scheduler_config(const fs::path& path) {
  auto file = io::ClassConfig::open(path, {"FlowMatchEulerDiscreteScheduler"});
  flow::ShiftedGrid grid;
  file.only("num_train_timesteps", 1000);
  grid.dynamic = file.boolean("use_dynamic_shifting", false);
  grid.shift = file.positive("shift", 1.0);
  grid.base_shift = file.number("base_shift", 0.5);
  grid.max_shift = file.number("max_shift", 1.15);
  grid.base_tokens = file.integer("base_image_seq_len", 256);
  grid.max_tokens = file.integer("max_image_seq_len", 4096);
  const double terminal = file.number("shift_terminal", 0.0);
  grid.terminal = terminal == 0.0 ? std::nullopt : std::optional(terminal);
  file.only("time_shift_type", "exponential");
  for (const char* key :
       {"invert_sigmas", "use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling"}) {
    file.only(key, false);
  }
  file.finish();
  if (terminal < 0 || terminal >= 1) file.refuse("shift_terminal", fmt::format("must be in (0, 1), is {}", terminal));
  if (grid.base_tokens == grid.max_tokens) file.refuse("max_image_seq_len", "must differ from base_image_seq_len");
  return grid;
}

namespace {

/// New weights of a component.
template <typename Config>
nn::Weights fresh_weights(const fs::path& folder, const std::string& part, const Config& config,
                          const at::TensorOptions& options, uint64_t seed) {
  return {folder.string(), [=](const std::string& name, const std::vector<int64_t>& shape) {
            if constexpr (std::is_same_v<Config, video::VocoderConfig>) {
              // No recipe trains one.
              const std::string file = (folder / "config.json").string();
              return video::lapped_vocoder_weight(config.generator, file, name, shape).to(options);
            }
            return fresh_weight(part, name, shape, seed).to(options);
          }};
}

}  // namespace

template <typename Network, typename Config>
void Model::open(const std::string& part, const Config& config, at::ScalarType dtype, const LoadOptions& options,
                 std::optional<Network>& network) {
  const fs::path folder = folder_ / part;
  const auto file = io::find_weights(folder, kWeights);
  const auto type = at::TensorOptions(dtype).device(options.device);
  nn::Weights weights = !file && options.fresh ? fresh_weights(folder, part, config, type, *options.fresh)
                                               : nn::open_weights(file.value_or(folder / kWeights), type);
  network.emplace(config, weights);
  weights.finish();
  Part& held = parts_.emplace_back();
  held.name = part;
  for (const auto& [name, tensor] : weights.tensors()) held.tensors.push_back({name, tensor});
}

std::unique_ptr<Model> Model::load(const fs::path& folder, const LoadOptions& options) {
  std::unique_ptr<Model> model(new Model);
  Model& m = *model;
  m.folder_ = folder;
  m.index_ = read_model_index(folder);
  m.grid_ = read_scheduler_config(folder / "scheduler" / "scheduler_config.json");
  const auto config = [&](const char* part) { return folder / part / "config.json"; };
  m.open("transformer", read_transformer_config(config("transformer")), options.dtype, options, m.transformer_);
  m.open("connectors", read_connectors_config(config("connectors")), options.dtype, options, m.connectors_);
  m.open("vae", video::read_video_vae_config(config("vae")), options.tower_dtype, options, m.vae_);
  m.open("audio_vae", video::read_audio_vae_config(config("audio_vae")), options.tower_dtype, options, m.audio_vae_);
  m.open("vocoder", video::read_vocoder_config(config("vocoder")), options.tower_dtype, options, m.vocoder_);
  // Of a pipeline of its own, hence in no index.
  if (fs::exists(folder / "latent_upsampler")) {
    m.open("latent_upsampler", video::read_latent_upsampler_config(config("latent_upsampler")), options.tower_dtype,
           options, m.upsampler_);
  }
  m.check_fit();
  return model;
}

void Model::check_fit() const {
  const TransformerConfig& t = transformer_->config();
  const ConnectorsConfig& c = connectors_->config();
  const video::AudioVaeConfig& a = audio_vae_->config();
  const auto require = [&](const char* part, const char* key, int64_t found, int64_t expected, const char* other) {
    if (found == expected) return;
    throw BadInput("{}: '{}' is {}, {} needs {}", (folder_ / part / "config.json").string(), key, found, other,
                   expected);
  };
  require("transformer", "in_channels", t.streams.video.in_channels, vae_->config().latent_channels, "the vae");
  require("transformer", "audio_in_channels", t.streams.audio.in_channels, a.latent_channels * a.latent_mel_bins(),
          "the audio_vae");
  const bool projects = t.use_prompt_embeddings;
  require("transformer", projects ? "caption_channels" : "cross_attention_dim",
          projects ? t.caption_channels : t.streams.video.context_dim, c.streams.video.width(), "the video connector");
  require("transformer", projects ? "caption_channels" : "audio_cross_attention_dim",
          projects ? t.caption_channels : t.streams.audio.context_dim, c.streams.audio.width(), "the audio connector");
  if (a.lapped && a.in_channels != 2) require("audio_vae", "in_channels", a.in_channels, 2, "the lapped front end");
  require("vocoder", "in_channels", vocoder_->config().generator.in_channels, a.output_channels * a.mel_bins,
          "the audio_vae");
}

const NamedTensors& Model::part(const std::string& name) const {
  for (const Part& part : parts_) {
    if (part.name == name) return part.tensors;
  }
  throw std::out_of_range("no part " + name);
}

}  // namespace unigrpo::policy::ltx2
