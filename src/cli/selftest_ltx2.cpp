#include "cli/selftest_ltx2.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/error.h"
#include "checkpoint/export_ltx2.h"
#include "cli/selftest_report.h"
#include "flow/shifted_grid.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "policy/ltx2/latents.h"
#include "policy/ltx2/model.h"
#include "rollout/clip_sampler.h"
#include "tensor/convert.h"
#include "tensor/shape.h"
#include "video/mel.h"

namespace unigrpo::cli {
namespace {

using nlohmann::json;
using policy::ltx2::Both;
using policy::ltx2::ClipGrid;
using policy::ltx2::Rotation;

// Tolerances of the schema: absolute, but for losses and gradients.
constexpr double kExact = 1e-6, kRope = 2e-5, kVelocity = 1e-4, kSampled = 5e-4, kGuided = 2e-3, kLoss = 1e-5,
                 kGradient = 1e-3, kSigma = 1e-6, kConnector = 1e-4, kVae = 5e-4, kMel = 1e-3, kAudioVae = 5e-4,
                 kVocoder = 1e-3, kUpsampler = 5e-4;

/// golden.json; what is missing or of the wrong type is an error by its path, keys joined by dots.
class Facts {
 public:
  explicit Facts(const std::filesystem::path& path)
      : file_(path.string()), root_(io::read_json_file(path, {}, size_t{16} << 20)) {
    if (!root_.is_object()) throw BadInput("{}: expected an object", file_);
  }
  const json& root() const { return root_; }
  bool has(const std::string& key) const { return root_.contains(key); }
  template <typename T>
  T get(const json& object, const std::string& key, const std::string& where) const {
    const std::string path = where.empty() ? key : where + "." + key;
    if (!object.is_object() || !object.contains(key)) throw BadInput("{}: '{}' is missing", file_, path);
    try {
      return object.at(key).get<T>();
    } catch (const json::exception&) {
      throw BadInput("{}: '{}' is of the wrong type: {}", file_, path, object.at(key).dump().substr(0, 80));
    }
  }
  template <typename T>
  T get_or(const json& object, const std::string& key, const std::string& where, T fallback) const {
    return object.is_object() && object.contains(key) ? get<T>(object, key, where) : fallback;
  }
  const std::string& file() const { return file_; }

 private:
  std::string file_;
  json root_;
};

/// A batch's timesteps, written as numbers or named as a tensor.
std::vector<double> numbers(const Facts& facts, const json& object, const std::string& key, const std::string& where) {
  return facts.get<std::vector<double>>(object, key, where);
}

class Selftest : private SelftestReport {
 public:
  Selftest(const std::filesystem::path& folder, const std::filesystem::path& out_folder, std::ostream& out,
           const Runtime& runtime)
      : SelftestReport(out),
        facts_(folder / "golden.json"),
        tensors_(folder / "golden.safetensors"),
        device_(runtime.device) {
    const auto format = facts_.get<std::string>(facts_.root(), "format", "");
    if (format != "ltx2-tiny/1") {
      throw BadInput("{}: 'format' is \"{}\", expected \"ltx2-tiny/1\"", facts_.file(), format);
    }
    model_ = policy::ltx2::Model::load(folder, {.device = device_});
    for (const io::TensorView& view : tensors_.tensors()) left_.insert(view.name);
    read_shape();
    if (!out_folder.empty()) checkpoint::export_ltx2(*model_, out_folder);
  }

  int run() {
    listing();
    for (const auto entries : {&Selftest::schedules, &Selftest::packing, &Selftest::positions, &Selftest::connectors,
                               &Selftest::block, &Selftest::velocities, &Selftest::samples, &Selftest::video_tower,
                               &Selftest::audio_tower, &Selftest::upsampling}) {
      const at::NoGradGuard no_grad;
      check(entries);
    }
    check(&Selftest::training);
    const std::set<std::string> known = {"format", "layout",  "made_with", "shape", "tensors", "velocity_cases",
                                         "train",  "samples", "schedules", "vae",   "audio"};
    for (const auto& [key, value] : facts_.root().items()) {
      if (!known.contains(key)) fail(key, "golden.json: not an entry of the schema");
    }
    for (const std::string& name : left_) fail(name, "golden.safetensors: not an entry of the schema");
    return finish();
  }

 private:
  /// Tensors that do not fit the model or one another are bad input as well.
  void check(void (Selftest::*entries)()) {
    try {
      (this->*entries)();
    } catch (const std::invalid_argument& error) {
      throw BadInput("{}: {}", tensors_.path().string(), error.what());
    } catch (const c10::Error& error) {
      throw BadInput("{}: {}", tensors_.path().string(), error.what_without_backtrace());
    }
  }

  // ---- entries
  bool has(const std::string& name) const { return tensors_.find(name) != nullptr; }
  at::Tensor golden(const std::string& name) {
    const io::TensorView* view = tensors_.find(name);
    if (view == nullptr) throw BadInput("{}: tensor '{}' is missing", tensors_.path().string(), name);
    const auto listed = shapes_.find(name);
    if (listed != shapes_.end() && listed->second != view->shape) {
      throw BadInput("{}: tensor '{}' has shape {}, golden.json lists {}", tensors_.path().string(), name,
                     tensor::shape_text(view->shape), tensor::shape_text(listed->second));
    }
    left_.erase(name);
    return tensor::to_tensor(*view, at::kFloat);
  }
  at::Tensor input(const std::string& name) { return golden(name).to(device_); }
  at::Tensor on_device(const std::vector<double>& values) { return tensor_of(values).to(device_); }
  static at::Tensor tensor_of(const std::vector<double>& values) {
    return at::tensor(values, at::kDouble).to(at::kFloat);
  }

  void read_shape() {
    const json shape = facts_.get<json>(facts_.root(), "shape", "");
    const auto size = [&](const char* key) {
      const auto value = facts_.get<int64_t>(shape, key, "shape");
      if (value < 1 || value > 1 << 16) throw BadInput("{}: 'shape.{}' must be 1 to 65536", facts_.file(), key);
      return value;
    };
    grid_ = {.frames = size("latent_frames"),
             .height = size("latent_height"),
             .width = size("latent_width"),
             .audio_frames = size("audio_frames"),
             .fps = facts_.get<double>(shape, "fps", "shape")};
    bins_ = size("audio_latent_mel");
  }

  void listing() {
    if (!facts_.has("tensors")) return;
    const json list = facts_.get<json>(facts_.root(), "tensors", "");
    for (const auto& [name, entry] : list.items()) {
      shapes_[name] = facts_.get<std::vector<int64_t>>(entry, "shape", "tensors." + name);
      if (!has(name)) fail(name, "listed by golden.json, not in golden.safetensors");
    }
    for (const io::TensorView& view : tensors_.tensors()) {
      if (!shapes_.contains(view.name)) fail(view.name, "in golden.safetensors, not listed by golden.json");
    }
  }

  void schedules() {
    if (!facts_.has("schedules")) return;
    const json all = facts_.get<json>(facts_.root(), "schedules", "");
    for (const auto& [name, entry] : all.items()) {
      const std::string where = "schedules." + name;
      const auto want = numbers(facts_, entry, "sigmas", where);
      std::vector<double> got;
      if (name.starts_with("distilled")) {
        const std::span<const double> first(flow::kDistilledSigmas), second(flow::kDistilledSecondStage);
        const std::span<const double> fixed = name == "distilled_stage_2" ? second : first;
        got.assign(fixed.begin(), fixed.end());
      } else {
        const auto tokens = facts_.get<int64_t>(entry, "tokens", where);
        got = flow::shifted_grid(model_->grid(), facts_.get<int64_t>(entry, "num_steps", where), tokens);
        if (entry.contains("mu")) {
          compare(where + ".mu", tensor_of({flow::shift_exponent(model_->grid(), tokens)}),
                  tensor_of({facts_.get<double>(entry, "mu", where)}), kSigma);
        }
      }
      if (name == "distilled_shifted_by_mistake") {  // what must not come out
        const double off =
            got.size() != want.size() ? 1 : (tensor_of(got) - tensor_of(want)).abs().max().item<double>();
        report(where, off > 1e-2, fmt::format("differs by {:.2e} (at least 1e-02)", off));
      } else {
        compare(where, tensor_of(got), tensor_of(want), kSigma);
      }
    }
  }

  void packing() {
    namespace ltx2 = policy::ltx2;
    if (has("pack.video_tokens")) {
      const at::Tensor latents = input("pack.video_latents"), tokens = golden("pack.video_tokens");
      compare("pack.video_tokens", ltx2::pack_video(latents), tokens, kExact);
      compare("pack.video_tokens, back",
              ltx2::unpack_video(tokens.to(device_), latents.size(2), latents.size(3), latents.size(4)), latents.cpu(),
              kExact);
      if (has("pack.video_latents_normalized")) {
        const at::Tensor normalized = model_->vae().normalize(latents);
        compare("pack.video_latents_normalized", normalized, golden("pack.video_latents_normalized"), kExact);
        compare("pack.video_latents_normalized, back", model_->vae().denormalize(normalized), latents.cpu(), kExact);
      }
    }
    if (!has("pack.audio_tokens")) return;
    const at::Tensor latents = input("pack.audio_latents"), tokens = golden("pack.audio_tokens");
    compare("pack.audio_tokens", ltx2::pack_audio(latents), tokens, kExact);
    compare("pack.audio_tokens, back", ltx2::unpack_audio(tokens.to(device_), bins_), latents.cpu(), kExact);
    if (has("pack.audio_tokens_normalized")) {
      compare("pack.audio_tokens_normalized", model_->audio_vae().normalize(tokens.to(device_)),
              golden("pack.audio_tokens_normalized"), kExact);
    }
    if (has("pack.audio_tokens_denormalized")) {
      compare("pack.audio_tokens_denormalized", model_->audio_vae().denormalize(tokens.to(device_)),
              golden("pack.audio_tokens_denormalized"), kExact);
    }
  }

  void positions() {
    namespace ltx2 = policy::ltx2;
    const auto& c = model_->transformer().config();
    if (has("rope.video_coords")) {
      compare("rope.video_coords", ltx2::video_coords(grid_, c.video_scale), golden("rope.video_coords"), kExact);
    }
    if (has("rope.audio_coords")) {
      compare("rope.audio_coords", ltx2::audio_coords(grid_.audio_frames, c.audio_scale), golden("rope.audio_coords"),
              kExact);
    }
    const auto places = model_->transformer().positions(grid_);
    const std::pair<const char*, const ltx2::Angles*> tables[] = {{"rope.video", &places.self.video},
                                                                  {"rope.audio", &places.self.audio},
                                                                  {"rope.cross_video", &places.cross.video},
                                                                  {"rope.cross_audio", &places.cross.audio}};
    for (const auto& [name, angles] : tables) {
      const std::string base = name;
      if (has(base + "_cos")) compare(base + "_cos", angles->cos_table(), golden(base + "_cos"), kRope);
      if (has(base + "_sin")) compare(base + "_sin", angles->sin_table(), golden(base + "_sin"), kRope);
    }
  }

  void connectors() {
    if (!has("text.hidden_states")) return;
    const auto out =
        model_->connectors()({.hidden = input("text.hidden_states"), .mask = input("text.mask").to(at::kLong)});
    compare("text.video_embeds", out.text.video, golden("text.video_embeds"), kConnector);
    compare("text.audio_embeds", out.text.audio, golden("text.audio_embeds"), kConnector);
    compare("text.out_mask", out.mask.to(at::kFloat), golden("text.out_mask"), 0);
  }

  policy::ltx2::StreamConditions block_conditions(bool video, const Rotation& self, const Rotation& cross) {
    const std::string audio = video ? "" : "audio_", prefix = "block0.";
    const auto optional = [&](const std::string& name) { return has(name) ? input(name) : at::Tensor(); };
    policy::ltx2::StreamConditions c;
    c.text = input(prefix + audio + "encoder_hidden_states");
    c.text_mask = optional(prefix + audio + "encoder_attention_mask");
    if (c.text_mask.defined()) c.text_mask = c.text_mask.unsqueeze(1);
    c.modulation = input(prefix + (video ? "temb" : "temb_audio"));
    c.cross_modulation = input(prefix + (video ? "temb_ca_scale_shift" : "temb_ca_audio_scale_shift"));
    c.cross_gate = input(prefix + (video ? "temb_ca_gate" : "temb_ca_audio_gate"));
    c.prompt_modulation = optional(prefix + (video ? "temb_prompt" : "temb_prompt_audio"));
    c.rotation = &self;
    c.cross_rotation = &cross;
    return c;
  }

  void block() {
    if (!has("block0.out_video")) return;
    const Both<at::Tensor> x{.video = input("block0.hidden_states"), .audio = input("block0.audio_hidden_states")};
    const auto places = model_->transformer().positions(grid_);
    const int64_t batch = x.video.size(0);
    const Rotation self_v(places.self.video, batch, device_), self_a(places.self.audio, batch, device_),
        cross_v(places.cross.video, batch, device_), cross_a(places.cross.audio, batch, device_);
    const auto out = model_->transformer().block(0)(
        x, {.video = block_conditions(true, self_v, cross_v), .audio = block_conditions(false, self_a, cross_a)}, {});
    compare("block0.out_video", out.video, golden("block0.out_video"), kVelocity);
    compare("block0.out_audio", out.audio, golden("block0.out_audio"), kVelocity);
  }

  policy::ltx2::TransformerInputs inputs() {
    return {.latents = {.video = input("in.video"), .audio = input("in.audio")},
            .text = {.video = input("in.text_video"), .audio = input("in.text_audio")},
            .text_mask = input("in.text_mask")};
  }

  /// What a velocity case or the training loss says of time.
  void set_times(policy::ltx2::TransformerInputs& in, const json& entry, const std::string& where) {
    const auto given = [&](const char* key) -> at::Tensor {
      if (!entry.contains(key)) return {};
      return entry.at(key).is_string() ? input(facts_.get<std::string>(entry, key, where))
                                       : on_device(numbers(facts_, entry, key, where));
    };
    const auto or_else = [](const at::Tensor& value, const at::Tensor& other) {
      return value.defined() ? value : other;
    };
    in.timestep.video = given("timestep");
    if (!in.timestep.video.defined()) throw BadInput("{}: '{}.timestep' is missing", facts_.file(), where);
    in.timestep.audio = or_else(given("audio_timestep"), in.timestep.video);
    in.sigma.video = given("sigma");
    in.sigma.audio = or_else(given("audio_sigma"), entry.contains("audio_timestep") ? at::Tensor() : in.sigma.video);
    in.cross_timestep = facts_.get_or(entry, "use_cross_timestep", where, true);
  }

  void velocities() {
    if (!facts_.has("velocity_cases")) return;
    const std::set<std::string> known = {
        "name",       "timestep",           "audio_timestep",   "sigma", "audio_sigma", "fps", "use_cross_timestep",
        "stg_blocks", "isolate_modalities", "perturbation_mask"};
    for (const json& entry : facts_.get<std::vector<json>>(facts_.root(), "velocity_cases", "")) {
      const auto name = facts_.get<std::string>(entry, "name", "velocity_cases");
      const std::string where = "velocity_cases." + name;
      for (const auto& [key, value] : entry.items()) {
        if (!known.contains(key)) fail(where + "." + key, "golden.json: not an entry of the schema");
      }
      policy::ltx2::TransformerInputs in = inputs();
      set_times(in, entry, where);
      in.isolated = facts_.get_or(entry, "isolate_modalities", where, false);
      in.perturbed_blocks = facts_.get_or(entry, "stg_blocks", where, std::vector<int64_t>{});
      for (const double keep : facts_.get_or(entry, "perturbation_mask", where, std::vector<double>{})) {
        in.perturbed_rows.push_back(keep == 0);
      }
      ClipGrid grid = grid_;
      grid.fps = facts_.get_or(entry, "fps", where, grid.fps);
      const auto out = model_->transformer()(in, model_->transformer().positions(grid));
      compare("velocity." + name + ".video", out.video, golden("velocity." + name + ".video"), kVelocity);
      compare("velocity." + name + ".audio", out.audio, golden("velocity." + name + ".audio"), kVelocity);
    }
  }

  rollout::ClipGuidance guidance_of(const json& g, const std::string& where) {
    const auto number = [&](const char* key, double fallback) { return facts_.get_or(g, key, where, fallback); };
    rollout::ClipGuidance guidance;
    auto& [video, audio] = guidance.streams;
    video = {.text_scale = number("scale", 1),
             .perturbed_scale = number("stg_scale", 0),
             .isolated_scale = number("modality_scale", 1),
             .rescale = number("rescale", 0)};
    audio = {.text_scale = number("audio_scale", video.text_scale),
             .perturbed_scale = number("audio_stg_scale", video.perturbed_scale),
             .isolated_scale = number("audio_modality_scale", video.isolated_scale),
             .rescale = number("audio_rescale", video.rescale)};
    guidance.perturbed_blocks = facts_.get_or(g, "stg_blocks", where, std::vector<int64_t>{});
    return guidance;
  }

  void samples() {
    if (!facts_.has("samples")) return;
    for (const json& entry : facts_.get<std::vector<json>>(facts_.root(), "samples", "")) {
      const auto name = facts_.get<std::string>(entry, "name", "samples");
      const std::string where = "samples." + name, base = "sample." + name + ".";
      const auto start = facts_.get<std::string>(entry, "start", where);
      if (start != "in.video, in.audio") {
        throw BadInput("{}: '{}.start' is \"{}\", expected \"in.video, in.audio\"", facts_.file(), where, start);
      }
      const auto in = inputs();
      const auto sigmas = numbers(facts_, entry, "sigmas", where);
      rollout::ClipRequest request{.noise = in.latents,
                                   .text = {.text = in.text, .mask = in.text_mask},
                                   .grid = grid_,
                                   .sigmas = sigmas,
                                   .cross_timestep = facts_.get_or(entry, "use_cross_timestep", where, true)};
      const bool guided = entry.contains("guidance") && !entry.at("guidance").is_null();
      if (guided) {
        request.guidance = guidance_of(entry.at("guidance"), where + ".guidance");
        request.negative = policy::ltx2::TextContext{
            .text = {.video = input("sample.negative_text_video"), .audio = input("sample.negative_text_audio")},
            .mask = in.text_mask};
      }
      const double tolerance = guided ? kGuided : kSampled;
      const auto look = [&](const std::string& what, const at::Tensor& got) {
        if (has(base + what)) compare(base + what, got, golden(base + what), tolerance);
      };
      rollout::sample_clips(model_->transformer(), request, {}, [&](const rollout::ClipStep& step) {
        if (step.index == 0) look("first_x0_video", step.clean.video);
        if (step.index == 0) look("first_x0_audio", step.clean.audio);
        look(fmt::format("step{}_video", step.index), step.latents.video);
        look(fmt::format("step{}_audio", step.index), step.latents.audio);
      });
    }
  }

  void video_tower() {
    if (has("vae.video_u8")) {
      const auto posterior = model_->vae().encode(input("vae.video_u8") / 127);
      compare("vae.mean", posterior.mean, golden("vae.mean"), kVae);
      compare("vae.logvar", posterior.logvar, golden("vae.logvar"), kVae);
    }
    if (!has("vae.decode_in")) return;
    const at::Tensor decoded = model_->vae().decode(input("vae.decode_in"));
    compare("vae.decode_out_stride4", decoded.slice(3, 0, std::nullopt, 4).slice(4, 0, std::nullopt, 4),
            golden("vae.decode_out_stride4"), kVae);
    if (!facts_.has("vae")) return;
    const json facts = facts_.get<json>(facts_.root(), "vae", "");
    report("vae.decode_out_shape",
           facts_.get<std::vector<int64_t>>(facts, "decode_out_shape", "vae") == decoded.sizes().vec(),
           json(decoded.sizes().vec()).dump());
    compare("vae.decode_out_mean", decoded.mean().view({1}),
            tensor_of({facts_.get<double>(facts, "decode_out_mean", "vae")}), kVae);
    compare("vae.decode_out_std", decoded.std().view({1}),
            tensor_of({facts_.get<double>(facts, "decode_out_std", "vae")}), kVae);
  }

  void audio_tower() {
    if (!facts_.has("audio")) return;
    const json facts = facts_.get<json>(facts_.root(), "audio", "");
    if (facts.contains("vocoder_rate")) {
      const auto rate = facts_.get<int64_t>(facts, "vocoder_rate", "audio");
      report("audio.vocoder_rate", rate == model_->vocoder().config().output_rate,
             fmt::format("{}, expected {}", model_->vocoder().config().output_rate, rate));
    }
    if (has("audio.wave")) {
      const at::Tensor mel =
          video::log_mel(input("audio.wave"), {.sample_rate = facts_.get<int64_t>(facts, "sample_rate", "audio"),
                                               .n_fft = facts_.get<int64_t>(facts, "n_fft", "audio"),
                                               .hop_length = facts_.get<int64_t>(facts, "mel_hop", "audio"),
                                               .num_bins = facts_.get<int64_t>(facts, "mel_bins", "audio")});
      compare("audio.log_mel", mel, golden("audio.log_mel"), kMel);
      const auto posterior = model_->audio_vae().encode(input("audio.log_mel"));
      compare("audio.mean", posterior.mean, golden("audio.mean"), kAudioVae);
      compare("audio.logvar", posterior.logvar, golden("audio.logvar"), kAudioVae);
    }
    if (!has("audio.decode_in")) return;
    compare("audio.decode_out", model_->audio_vae().decode(input("audio.decode_in")), golden("audio.decode_out"),
            kAudioVae);
    compare("audio.vocoder_out", model_->vocoder()(input("audio.decode_out")), golden("audio.vocoder_out"), kVocoder);
  }

  void upsampling() {
    if (!has("upsampler.in")) return;
    if (model_->upsampler() == nullptr) {
      throw BadInput("{}: is missing; golden.safetensors has its values",
                     (model_->folder() / "latent_upsampler").string());
    }
    compare("upsampler.out", (*model_->upsampler())(input("upsampler.in")), golden("upsampler.out"), kUpsampler);
  }

  void training() {
    if (!facts_.has("train")) return;
    const json train = facts_.get<json>(facts_.root(), "train", "");
    const NamedTensors& parameters = model_->part("transformer");
    for (const NamedTensor& parameter : parameters) at::Tensor(parameter.tensor).requires_grad_();
    policy::ltx2::TransformerInputs in = inputs();
    in.latents.video.requires_grad_();
    in.latents.audio.requires_grad_();
    set_times(in, train, "train");
    const auto out = model_->transformer()(in, model_->transformer().positions(grid_));
    const at::Tensor video = (out.video - input("train.target_video")).square().mean();
    const at::Tensor audio = (out.audio - input("train.target_audio")).square().mean();
    const auto scalar = [](double value) { return at::full({1}, value, at::kDouble).to(at::kFloat); };
    const auto loss = [&](const char* key) { return scalar(facts_.get<double>(train, key, "train")); };
    compare_relative("train.loss_video", video.detach().view({1}).cpu(), loss("loss_video"), kLoss);
    compare_relative("train.loss_audio", audio.detach().view({1}).cpu(), loss("loss_audio"), kLoss);
    (video + audio).backward();
    compare_relative("grad_input.video", in.latents.video.grad().cpu(), golden("grad_input.video"), kGradient);
    compare_relative("grad_input.audio", in.latents.audio.grad().cpu(), golden("grad_input.audio"), kGradient);
    const json norms = facts_.get<json>(train, "grad_norm", "train");
    double squares = 0;
    std::vector<std::string> without;
    for (const NamedTensor& parameter : parameters) {
      const std::string& name = parameter.name;
      const at::Tensor& tensor = parameter.tensor;
      const at::Tensor grad = tensor.grad().defined() ? tensor.grad().cpu() : at::zeros(tensor.sizes());
      if (!tensor.grad().defined()) without.push_back(name);
      const double norm = grad.to(at::kDouble).norm().item<double>();
      squares += norm * norm;
      if (has("grad." + name)) compare_relative("grad." + name, grad, golden("grad." + name), kGradient);
      if (norms.contains(name)) {
        compare_relative("train.grad_norm." + name, scalar(norm),
                         scalar(facts_.get<double>(norms, name, "train.grad_norm")), kGradient);
      }
    }
    compare_relative("train.grad_norm_total", scalar(std::sqrt(squares)),
                     scalar(facts_.get<double>(train, "grad_norm_total", "train")), kGradient);
    const auto expected = facts_.get_or(train, "without_grad", "train", std::vector<std::string>{});
    report("train.without_grad", std::ranges::is_permutation(without, expected),
           fmt::format("{} parameters", without.size()));
  }

  Facts facts_;
  io::SafetensorsFile tensors_;
  at::Device device_;
  std::unique_ptr<policy::ltx2::Model> model_;
  ClipGrid grid_;
  int64_t bins_ = 0;
  std::map<std::string, std::vector<int64_t>> shapes_;  // as golden.json lists them
  std::set<std::string> left_;
};

}  // namespace

int run_selftest_ltx2(const std::filesystem::path& folder, const std::filesystem::path& out_folder, std::ostream& out,
                      const Runtime& runtime) {
  return Selftest(folder, out_folder, out, runtime).run();
}

}  // namespace unigrpo::cli
