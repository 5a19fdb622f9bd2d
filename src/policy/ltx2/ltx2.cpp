#include "policy/ltx2/ltx2.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "parallel/groups.h"
#include "policy/ltx2/clip_tensors.h"
#include "policy/ltx2/latents.h"
#include "policy/patterns.h"
#include "tensor/convert.h"
#include "tensor/device.h"

namespace unigrpo::policy {
namespace {

namespace fs = std::filesystem;
using ltx2::Both;

constexpr double kTrainTimesteps = 1000;
constexpr const char* kTransformer = "transformer.";

std::unique_ptr<ltx2::TextSource> open_text(const PolicyConfig& config, const ltx2::Model& model) {
  const ltx2::ConnectorsConfig& connectors = model.connectors().config();
  if (!config.text.file.empty()) return ltx2::open_text_features(config.text.file, connectors);
  const auto encoder = model.index().find("text_encoder");
  if (encoder != model.index().end() && encoder->second == "UniGRPOTextEncoder") {
    return ltx2::open_text_encoder(model.folder() / "text_encoder", connectors);
  }
  throw BadInput(
      "data.text_features (--text-features): expected a file of the prompts' text features: {} has no text encoder of "
      "class UniGRPOTextEncoder",
      model.folder().string());
}

/// What of a recipe this family does not do.
void refuse_settings(const PolicyConfig& config, const Runtime& runtime) {
  if (config.train == TrainMode::lora) {
    throw BadInput("policy.train: expected \"full\" for an LTX-2 folder ({}), got \"lora\"", config.model);
  }
  if (config.recompute) throw BadInput("policy.recompute: expected false for an LTX-2 folder ({})", config.model);
  if (runtime.groups && (runtime.groups->shape.tp > 1 || runtime.groups->shape.sp > 1 ||
                         !runtime.groups->shape.layers.empty() || runtime.groups->shape.flexible_sp)) {
    throw BadInput("parallel: expected tp = 1, sp = 1, no plan and no flexible_sp for an LTX-2 folder ({})",
                   config.model);
  }
}

ContextDigest digest_of(const EncodedBlock& text) {
  ContextDigest digest;
  for (const at::Tensor& one : text.text) digest.token_ids = hash_tensor(one, digest.token_ids);
  digest.mask = hash_tensor(text.mask, digest.mask);
  return digest;
}

/// fps as a ratio of whole numbers, to a thousandth.
media::Rational rational(double fps) {
  const int64_t thousandths = std::llround(fps * 1000), divisor = std::gcd(thousandths, int64_t{1000});
  return {.num = thousandths / divisor, .den = 1000 / divisor};
}

/// [B, 3, F, H, W] in [-1, 1] -> [B, F, H, W, 3], 8 bits.
at::Tensor to_frames(const at::Tensor& videos) {
  return ((videos.to(at::kFloat).clamp(-1, 1) + 1) * 127.5)
      .round()
      .to(at::kByte)
      .permute({0, 2, 3, 4, 1})
      .contiguous()
      .cpu();
}

/// [B, C, S] -> the same with `length` samples of 16 bits: padded with silence, or cut.
at::Tensor to_sound(const at::Tensor& waves, int64_t length) {
  const at::Tensor whole = at::constant_pad_nd(waves.to(at::kFloat), {0, std::max<int64_t>(0, length - waves.size(2))});
  return ((whole.narrow(2, 0, length).clamp(-1, 1) * 32767).round() / 32767).contiguous().cpu();
}

template <typename T>
std::vector<T> values_of(const at::Tensor& tensor) {
  const T* begin = tensor.const_data_ptr<T>();
  return {begin, begin + tensor.numel()};
}

}  // namespace

/// Rows under texts of their own.
class Ltx2::ClipDenoiser final : public Denoiser {
 public:
  ClipDenoiser(const Ltx2& model, std::span<const Context* const> rows, const ClipShape& shape)
      : model_(model), positions_(model.positions(shape)) {
    for (const Context* row : rows) texts_.push_back(model.read_.at(row->blocks.at(0)).get());
  }
  std::vector<at::Tensor> velocities(std::span<const at::Tensor> latents, const at::Tensor& t) override {
    const at::NoGradGuard no_grad;
    return model_.velocities(texts_, latents, {.video = t, .audio = t}, positions_);
  }

 private:
  const Ltx2& model_;
  ltx2::ClipPositions positions_;
  std::vector<const EncodedBlock*> texts_;
};

std::unique_ptr<Ltx2> Ltx2::load(const PolicyConfig& config, const Runtime& runtime) {
  refuse_settings(config, runtime);
  std::unique_ptr<Ltx2> policy(new Ltx2);
  policy->device_ = runtime.device;
  policy->model_ = ltx2::Model::load(
      config.model,
      {.dtype = config.dtype == DtypeChoice::bfloat16 ? at::kBFloat16 : at::kFloat, .device = runtime.device});
  policy->text_ = open_text(config, *policy->model_);
  policy->text_length_ = config.text.length;
  for (const NamedTensor& weight : policy->model_->part("transformer")) {
    const NamedTensor& named = policy->parameters_.emplace_back(NamedTensor{kTransformer + weight.name, weight.tensor});
    named.tensor.set_requires_grad(!matches_any(config.freeze, named.name));
  }
  return policy;
}

Ltx2::Ltx2(const Ltx2& other)
    : UnifiedPolicy(),
      ClipPolicy(),
      model_(other.model_),
      text_(other.text_),
      text_length_(other.text_length_),
      device_(other.device_),
      parameters_(other.parameters_) {}

ModelSizes Ltx2::read_sizes(const fs::path& folder) {
  throw BadInput("{}: an LTX-2 folder, whose steps are not counted beforehand; expected a BAGEL or Qwen2.5 folder",
                 folder.string());
}

void Ltx2::refuse(const char* what) const {
  throw BadInput("{}: an LTX-2 model, which {}; expected rollout.episode = [\"av\"] and prompts of text alone",
                 model_->folder().string(), what);
}

int64_t Ltx2::max_positions() const { return std::numeric_limits<int64_t>::max() / 2; }

Context Ltx2::fork(const Context& parent) {
  Context child = parent;
  if (parent.blocks.empty()) return child;
  read_[next_number_] = read_.at(parent.blocks.front());
  child.blocks = {next_number_++};
  return child;
}

void Ltx2::release(Context& context) {
  if (!context.blocks.empty()) read_.erase(context.blocks.front());
  context = Context{};
}

NamedTensors Ltx2::text_parameters() const {
  NamedTensors all;
  for (const NamedTensor& weight : model_->part("connectors"))
    all.push_back({"connectors." + weight.name, weight.tensor});
  for (const NamedTensor& weight : text_->parameters()) all.push_back({"text_encoder." + weight.name, weight.tensor});
  return all;
}

EncodedBlock Ltx2::encode_text(const std::string* text) const {
  const ltx2::Connectors& connectors = model_->connectors();
  const ltx2::ConnectorsConfig& config = connectors.config();
  if (text == nullptr && !(config.streams.video.num_registers && config.streams.audio.num_registers)) {
    throw BadInput("{}: no learnable registers, which stand for a text that is left out",
                   (model_->folder() / "connectors" / "config.json").string());
  }
  const at::Tensor states =
      text == nullptr ? at::zeros({1, config.caption_channels, config.num_text_layers}) : text_->states(*text);
  ltx2::TextStates padded = ltx2::padded_left(std::span(&states, 1), text_length_, connectors.length_multiple());
  padded.hidden = padded.hidden.to(device_);
  padded.mask = text == nullptr ? at::zeros_like(padded.mask).to(device_) : padded.mask.to(device_);
  const ltx2::TextContext context = connectors(padded);
  return {{context.text.video[0], context.text.audio[0]}, context.mask[0]};
}

std::vector<Block> Ltx2::read_prompt(const std::string& text) {
  const at::NoGradGuard no_grad;
  EncodedBlock encoded = encode_text(&text);
  for (at::Tensor& one : encoded.text) one = one.cpu();
  encoded.mask = encoded.mask.cpu();
  return {std::move(encoded)};
}

void Ltx2::append_encoded(std::span<Context* const> rows, std::span<const Block> blocks) {
  for (size_t i = 0; i < rows.size(); ++i) {
    Context& row = *rows[i];
    if (!row.blocks.empty()) throw std::invalid_argument("a second encoded text: a clip is of one");
    auto text = std::make_shared<EncodedBlock>(std::get<EncodedBlock>(blocks[i]));
    row.digest = digest_of(*text);
    row.slots.assign(static_cast<size_t>(text->mask.size(0)), 0);
    for (at::Tensor& one : text->text) one = one.to(device_);
    text->mask = text->mask.to(device_);
    read_[next_number_] = std::move(text);
    row.blocks = {next_number_++};
  }
}

std::vector<int64_t> Ltx2::clip_channels() const {
  const auto& streams = model_->transformer().config().streams;
  return {streams.video.in_channels, streams.audio.in_channels};
}

ClipShape Ltx2::clip_shape(const ClipSize& size) const {
  const video::VideoVaeConfig& vae = model_->vae().config();
  if ((size.frames - 1) % vae.temporal_ratio != 0) {
    throw BadInput("rollout.clip.frames: expected 1 + a multiple of {} for {}, got {}", vae.temporal_ratio,
                   model_->folder().string(), size.frames);
  }
  for (const auto& [key, side] : {std::pair("height", size.height), std::pair("width", size.width)}) {
    // The decoder's reflected border takes a second latent.
    const int64_t least = vae.decoder_padding == "reflect" ? 2 * vae.spatial_ratio : vae.spatial_ratio;
    if (side % vae.spatial_ratio == 0 && side >= least) continue;
    throw BadInput("rollout.clip.{}: expected a multiple of {} from {} on for {}, got {}", key, vae.spatial_ratio,
                   least, model_->folder().string(), side);
  }
  const double seconds = static_cast<double>(size.frames) / size.fps;
  const int64_t audio = std::llround(seconds * model_->audio_vae().config().latents_per_second());
  if (audio < 1) {
    throw BadInput("rollout.clip.frames: expected enough for a latent of sound, got {} at {} a second", size.frames,
                   size.fps);
  }
  return {.video = {.height = size.height / vae.spatial_ratio,
                    .width = size.width / vae.spatial_ratio,
                    .frames = 1 + (size.frames - 1) / vae.temporal_ratio},
          .audio = {.height = 1, .width = audio},
          .fps = size.fps};
}

std::vector<double> Ltx2::clip_times(int64_t num_steps, int64_t num_tokens) const {
  return flow::shifted_grid(model_->grid(), num_steps, num_tokens);
}

std::unique_ptr<Denoiser> Ltx2::denoise_clips(std::span<const Context* const> rows, const ClipShape& shape) {
  return std::make_unique<ClipDenoiser>(*this, rows, shape);
}

ltx2::ClipPositions Ltx2::positions(const ClipShape& shape) const {
  return model_->transformer().positions({.frames = shape.video.frames,
                                          .height = shape.video.height,
                                          .width = shape.video.width,
                                          .audio_frames = shape.audio.num_tokens(),
                                          .fps = shape.fps});
}

std::vector<at::Tensor> Ltx2::velocities(std::span<const EncodedBlock* const> texts,
                                         std::span<const at::Tensor> latents, const Both<at::Tensor>& t,
                                         const ltx2::ClipPositions& positions, bool isolated) const {
  // Texts of one length make one batch; padding to the longest would add to what rows read.
  std::map<int64_t, std::vector<int64_t>> by_length;
  for (size_t i = 0; i < texts.size(); ++i) by_length[texts[i]->mask.size(0)].push_back(static_cast<int64_t>(i));
  std::vector<at::Tensor> places;
  std::vector<std::vector<at::Tensor>> parts(2);
  for (const auto& [length, rows] : by_length) {
    std::vector<at::Tensor> video, audio, masks;
    for (const int64_t row : rows) {
      const EncodedBlock& text = *texts[static_cast<size_t>(row)];
      video.push_back(text.text[0]);
      audio.push_back(text.text[1]);
      masks.push_back(text.mask);
    }
    const at::Tensor index = tensor::index_tensor(rows, device_);
    const auto own = [&](const at::Tensor& all) { return by_length.size() == 1 ? all : all.index_select(0, index); };
    const auto timestep = [&](const at::Tensor& all) { return own(all).to(at::kFloat) * kTrainTimesteps; };
    const Both<at::Tensor> v =
        model_->transformer()({.latents = {.video = own(latents[0]), .audio = own(latents[1])},
                               .text = {.video = at::stack(video), .audio = at::stack(audio)},
                               .text_mask = at::stack(masks),
                               .timestep = {.video = timestep(t.video), .audio = timestep(t.audio)},
                               .isolated = isolated},
                              positions);
    places.push_back(index);
    parts[0].push_back(v.video.to(at::kFloat));
    parts[1].push_back(v.audio.to(at::kFloat));
  }
  if (by_length.size() == 1) return {parts[0][0], parts[1][0]};
  const at::Tensor order = at::cat(places).argsort();
  return {at::cat(parts[0]).index_select(0, order), at::cat(parts[1]).index_select(0, order)};
}

TrainOutput Ltx2::forward_train(const TrainBatch& batch) {
  std::vector<EncodedBlock> texts;  // of the prefixes, on the device
  std::vector<ContextDigest> digests;
  for (const auto& prefix : batch.prefixes) {
    const auto* text = prefix.size() == 1 ? std::get_if<EncodedBlock>(prefix.data()) : nullptr;
    if (text == nullptr) throw std::invalid_argument("a clip's prefix is one encoded text");
    digests.push_back(digest_of(*text));
    EncodedBlock& here = texts.emplace_back(*text);
    for (at::Tensor& one : here.text) one = one.to(device_);
    here.mask = here.mask.to(device_);
  }
  TrainOutput output;
  std::vector<const EncodedBlock*> rows;
  std::vector<std::vector<at::Tensor>> latents(2);
  std::vector<at::Tensor> times;
  ClipShape shape;
  for (const TrainSequence& sequence : batch.sequences) {
    for (const Block& block : sequence.blocks) {
      const auto* clip = std::get_if<NoisyClip>(&block);
      if (clip == nullptr) throw std::invalid_argument("a clip's sequence has its noisy states alone");
      rows.insert(rows.end(), static_cast<size_t>(clip->t.size(0)), &texts[static_cast<size_t>(sequence.prefix)]);
      for (size_t m = 0; m < 2; ++m) latents[m].push_back(clip->latents[m]);
      times.push_back(clip->t);
      shape = clip->shape;
    }
    output.digests.emplace_back(sequence.blocks.size(), digests[static_cast<size_t>(sequence.prefix)]);
  }
  if (rows.empty()) return output;
  const at::Tensor all[] = {at::cat(latents[0]).to(device_), at::cat(latents[1]).to(device_)};
  const at::Tensor t = at::cat(times).to(device_);
  output.clip_velocities = velocities(rows, all, {.video = t, .audio = t}, positions(shape));
  return output;
}

std::vector<media::Clip> Ltx2::decode_clips(std::span<const at::Tensor> latents, const ClipShape& shape) {
  const at::NoGradGuard no_grad;
  const video::VideoVae& vae = model_->vae();
  const video::AudioVae& audio_vae = model_->audio_vae();
  const at::Tensor video =
      ltx2::unpack_video(latents[0].to(device_), shape.video.frames, shape.video.height, shape.video.width);
  const at::Tensor frames = to_frames(vae.decode(vae.denormalize(video)));
  const at::Tensor mel = audio_vae.decode(
      ltx2::unpack_audio(audio_vae.denormalize(latents[1].to(device_)), audio_vae.config().latent_mel_bins()));
  const int64_t rate = model_->vocoder().config().output_rate;
  const double seconds = static_cast<double>(frames.size(1)) / shape.fps;
  const at::Tensor sound = to_sound(model_->vocoder()(mel), std::llround(seconds * static_cast<double>(rate)));
  std::vector<media::Clip> clips;
  for (int64_t i = 0; i < frames.size(0); ++i) {
    clips.push_back({.frames = {.count = frames.size(1),
                                .height = static_cast<int>(frames.size(2)),
                                .width = static_cast<int>(frames.size(3)),
                                .pixels = values_of<uint8_t>(frames[i])},
                     .fps = rational(shape.fps),
                     .sound = {.channels = static_cast<int>(sound.size(1)),
                               .rate = static_cast<int>(rate),
                               .samples = values_of<float>(sound[i])}});
  }
  return clips;
}

Both<at::Tensor> Ltx2::encode_clips(std::span<const media::Clip> clips) const {
  const at::NoGradGuard no_grad;
  const ltx2::ClipTensors inputs = ltx2::clip_tensors(clips, *model_);
  const video::VideoVae& vae = model_->vae();
  const video::AudioVae& audio_vae = model_->audio_vae();
  return {.video = ltx2::pack_video(vae.normalize(vae.encode(inputs.frames).mean)),
          .audio = audio_vae.normalize(ltx2::pack_audio(audio_vae.encode(inputs.sound).mean))};
}

uint64_t Ltx2::weights_version() const {
  uint64_t version = kFnvStart;
  for (const NamedTensor& parameter : parameters_) {
    version = fnv1a64(static_cast<uint64_t>(parameter.tensor._version()), version);
  }
  return version;
}

}  // namespace unigrpo::policy
