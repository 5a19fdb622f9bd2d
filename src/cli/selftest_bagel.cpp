#include "cli/selftest_bagel.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <ostream>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/selftest_report.h"
#include "flow/guidance.h"
#include "flow/matching_loss.h"
#include "flow/ode_step.h"
#include "flow/time_grid.h"
#include "io/atomic_file.h"
#include "io/json.h"
#include "io/safetensors.h"
#include "kernels/gather_log_prob.h"
#include "nn/patch.h"
#include "policy/bagel/bagel.h"
#include "tensor/convert.h"

namespace unigrpo::cli {
namespace {

using nlohmann::json;
using policy::Block;
using policy::Context;
using policy::LatentGrid;

// Tolerances of the schema: absolute for outputs, relative for losses and gradients.
constexpr double kOutput = 2e-4, kTrajectory = 1e-3, kLoss = 1e-4, kGradient = 1e-3;

/// golden.json, strictly; remembers which keys were asked for.
class Facts {
 public:
  explicit Facts(const std::filesystem::path& path)
      : file_(path.string()), root_(io::parse_json(io::read_text_file(path), file_)) {
    if (!root_.is_object()) throw BadInput("{}: expected an object", file_);
  }
  bool has(const std::string& key) const { return root_.contains(key); }
  std::vector<std::string> unknown(const std::set<std::string>& known) const {
    std::vector<std::string> keys;
    for (const auto& [key, value] : root_.items()) {
      if (!known.contains(key)) keys.push_back(key);
    }
    return keys;
  }
  /// `path`: keys joined by dots.
  template <typename T>
  T get(const std::string& path) const {
    const json* value = &root_;
    size_t first = 0;
    while (first <= path.size()) {
      const size_t dot = std::min(path.find('.', first), path.size());
      const std::string key = path.substr(first, dot - first);
      if (!value->is_object() || !value->contains(key)) throw BadInput("{}: '{}' is missing", file_, path);
      value = &(*value)[key];
      first = dot + 1;
    }
    try {
      return value->get<T>();
    } catch (const json::exception&) {
      throw BadInput("{}: '{}' is of the wrong type: {}", file_, path, value->dump().substr(0, 80));
    }
  }

 private:
  std::string file_;
  json root_;
};

class Selftest : private SelftestReport {
 public:
  Selftest(const std::filesystem::path& folder, std::ostream& out, const Runtime& runtime)
      : SelftestReport(out),
        facts_(folder / "golden.json"),
        tensors_(folder / "golden.safetensors"),
        device_(runtime.device) {
    policy::PolicyConfig config;
    config.model = folder.string();
    config.freeze = {};
    model_ = policy::Bagel::load(config, runtime);
    for (const io::TensorView& view : tensors_.tensors()) left_.insert(view.name);
  }

  int run() {
    tokenizer();
    text();
    drawing();
    autoencoder();
    vision();
    editing();
    training();
    for (const std::string& key : facts_.unknown(known_)) fail(key, "golden.json: not an entry of the schema");
    for (const std::string& name : left_) fail(name, "golden.safetensors: not an entry of the schema");
    return finish();
  }

 private:
  // ---- results
  template <typename T>
  void equal(const std::string& name, const T& got, const T& want) {
    report(name, got == want,
           got == want ? "equal" : fmt::format("got {}, expected {}", json(got).dump(), json(want).dump()));
  }

  // ---- entries
  bool has(const std::string& key) {
    known_.insert(key);
    return facts_.has(key);
  }
  bool has_tensor(const std::string& name) const { return tensors_.find(name) != nullptr; }
  at::Tensor golden(const std::string& name) {
    const io::TensorView* view = tensors_.find(name);
    if (!view) throw BadInput("{}: tensor '{}' is missing", tensors_.path().string(), name);
    left_.erase(name);
    return tensor::to_tensor(*view, at::kFloat);
  }
  at::Tensor input(const std::string& name) { return golden(name).to(device_); }
  std::vector<int64_t> ids(const std::string& key) {
    known_.insert(key);
    return facts_.get<std::vector<int64_t>>(key);
  }
  std::string words(const std::string& key) {
    known_.insert(key);
    return facts_.get<std::string>(key);
  }
  LatentGrid grid() {
    known_.insert({"latent_grid", "image_hw"});
    const auto sides = facts_.get<std::vector<int64_t>>("latent_grid");
    if (sides.size() != 2) throw BadInput("golden.json: 'latent_grid' must hold two sides");
    return {sides[0], sides[1]};
  }

  // ---- contexts
  at::Tensor append(Context& context, const std::vector<int64_t>& tokens) {
    Context* row = &context;
    return model_->append_text(std::span<Context* const>(&row, 1), std::span(&tokens, 1));
  }
  void append(Context& context, const Block& image) {
    Context* row = &context;
    model_->append_images(std::span<Context* const>(&row, 1), std::span(&image, 1));
  }
  policy::LatentBlock latents_block() {
    const at::Tensor image = input("image").unsqueeze(0);
    const int64_t pixels = model_->config().pixels_per_token();
    return {.latents = model_->encode_images(image).squeeze(0),
            .grid = {image.size(2) / pixels, image.size(3) / pixels}};
  }
  policy::VisionBlock vision_block() {
    const at::Tensor image = golden("vit_image");
    const int64_t patch = model_->config().vit.patch_size;
    return {.pixels = image, .grid = {image.size(1) / patch, image.size(2) / patch}};
  }
  std::vector<int64_t> greedy(Context& context, size_t count) {
    std::vector<int64_t> got = {model_->bos_id()};
    while (got.size() < count) got.push_back(append(context, {got.back()}).argmax(-1).item<int64_t>());
    return got;
  }
  at::Tensor velocity(const Context& context, const at::Tensor& x, double t) {
    const Context* reader = &context;
    return model_->denoise(std::span(&reader, 1), grid())
        ->velocity(x.unsqueeze(0).to(device_), at::full({1}, t, at::TensorOptions(at::kFloat).device(device_)))
        .squeeze(0);
  }

  void tokenizer() {
    if (has("special_tokens")) {
      const auto want = facts_.get<std::map<std::string, int64_t>>("special_tokens");
      const auto& special = model_->tokenizer().special_tokens();
      std::map<std::string, int64_t> got;
      const std::map<std::string, std::string> names = {{"bos_token_id", "<|im_start|>"},
                                                        {"eos_token_id", "<|im_end|>"},
                                                        {"start_of_image", "<|vision_start|>"},
                                                        {"end_of_image", "<|vision_end|>"}};
      for (const auto& [key, id] : want) {
        const auto name = names.find(key);
        if (name != names.end() && special.contains(name->second)) got[key] = special.at(name->second);
      }
      equal("special_tokens", got, want);
    }
    if (!has("tokenizer")) return;
    const auto cases = facts_.get<std::vector<json>>("tokenizer");
    for (size_t i = 0; i < cases.size(); ++i) {
      const std::string name = fmt::format("tokenizer[{}]", i);
      if (!cases[i].is_object() || !cases[i].contains("text") || !cases[i].contains("ids")) {
        throw BadInput("golden.json: {} needs 'text' and 'ids'", name);
      }
      equal(name, model_->tokenizer().encode(cases[i]["text"].get<std::string>()),
            cases[i]["ids"].get<std::vector<int64_t>>());
    }
  }

  void text() {
    for (const char* key : {"prompt", "think"}) {
      if (!has(key) || !has(std::string(key) + "_ids")) continue;
      equal(std::string(key) + "_ids", policy::block_ids(*model_, words(key)), ids(std::string(key) + "_ids"));
    }
    known_.insert("seed");
    if (has_tensor("text_logits")) {
      Context context;
      std::vector<at::Tensor> rows;
      for (const int64_t id : ids("prompt_ids")) rows.push_back(append(context, std::vector<int64_t>{id}));
      model_->release(context);
      compare("text_logits", at::cat(rows), golden("text_logits"), kOutput);
    }
    if (has("greedy_ids")) {
      const auto want = ids("greedy_ids");
      Context context;
      append(context, ids("prompt_ids"));
      equal("greedy_ids", greedy(context, want.size()), want);
      model_->release(context);
    }
  }

  void drawing() {
    if (!has_tensor("velocity") && !has_tensor("ode_final")) return;
    Context context;
    append(context, ids("prompt_ids"));
    append(context, ids("think_ids"));
    if (has_tensor("velocity")) {
      const at::Tensor x = golden("velocity_x"), want = golden("velocity");
      known_.insert("velocity_t");
      const auto times = facts_.get<std::vector<double>>("velocity_t");
      for (int64_t i = 0; i < x.size(0); ++i) {
        compare(fmt::format("velocity[{}] at t = {}", i, times.at(i)), velocity(context, x[i], times.at(i)), want[i],
                kOutput);
      }
    }
    if (has("ode")) {
      const std::pair<const char*, flow::Renorm> ends[] = {{"ode_final_cfg_global", flow::Renorm::global},
                                                           {"ode_final_cfg_channel", flow::Renorm::channel}};
      if (has_tensor("ode_final")) compare("ode_final", walk(context, {}), golden("ode_final"), kTrajectory);
      for (const auto& [name, renorm] : ends) {
        if (!has_tensor(name)) continue;
        const std::string kind = renorm == flow::Renorm::global ? "global" : "channel";
        const auto interval = facts_.get<std::vector<double>>("ode.cfg_" + kind + "_interval");
        if (interval.size() != 2) throw BadInput("golden.json: 'ode.cfg_{}_interval' must hold two times", kind);
        flow::GuidanceConfig guide{.text_scale = facts_.get<double>("ode.cfg_text_scale"), .renorm = renorm};
        guide.interval_low = interval[0];
        guide.interval_high = interval[1];
        compare(name, walk(context, guide), golden(name), kTrajectory);
      }
    }
    model_->release(context);
  }

  /// From init_noise to data by Euler steps; guidance's other branch has read nothing.
  at::Tensor walk(const Context& context, const flow::GuidanceConfig& guide) {
    const auto times =
        flow::time_grid(facts_.get<int64_t>("ode.num_timesteps") - 1, facts_.get<double>("ode.timestep_shift"));
    const Context nothing;
    const Context *reader = &context, *empty = &nothing;
    const auto conditional = model_->denoise(std::span(&reader, 1), grid());
    const auto unconditional = model_->denoise(std::span(&empty, 1), grid());
    at::Tensor x = input("init_noise").unsqueeze(0);
    for (size_t i = 0; i + 1 < times.size(); ++i) {
      const at::Tensor t = at::full({1}, times[i], x.options());
      at::Tensor v = conditional->velocity(x, t);
      if (flow::guidance_acts(guide, times[i])) {
        v = flow::guide(guide, {.conditional = v, .without_text = unconditional->velocity(x, t)});
      }
      x = flow::ode_step(x, v, times[i], times[i + 1]);
    }
    return x.squeeze(0);
  }

  void autoencoder() {
    const at::NoGradGuard no_grad;
    if (has_tensor("vae_latent_mean")) {
      compare("vae_latent_mean", model_->autoencoder().encode_mean(input("image").unsqueeze(0)).squeeze(0),
              golden("vae_latent_mean"), kOutput);
    }
    if (has_tensor("vae_decode_out")) {
      compare("vae_decode_out", model_->autoencoder().decode(input("vae_decode_in").unsqueeze(0)).squeeze(0),
              golden("vae_decode_out"), kOutput);
    }
  }

  void vision() {
    if (!has_tensor("vit_features") && !has_tensor("vit_embeddings")) return;
    const at::NoGradGuard no_grad;
    const policy::VisionBlock block = vision_block();
    if (has_tensor("vit_position_ids")) {
      const at::Tensor ids =
          nn::grid_position_ids(block.grid.height, block.grid.width, model_->config().vit_max_patches_per_side);
      compare("vit_position_ids", ids.to(at::kFloat), golden("vit_position_ids"), 0);
    }
    const at::Tensor features = model_->vision().features(block.pixels.unsqueeze(0).to(device_));
    if (has_tensor("vit_features")) compare("vit_features", features.squeeze(0), golden("vit_features"), kOutput);
    if (has_tensor("vit_embeddings")) {
      compare("vit_embeddings", model_->vision().connect(features, block.grid.height, block.grid.width).squeeze(0),
              golden("vit_embeddings"), kOutput);
    }
  }

  void sizes_of(const std::string& name, const Context& context) {
    if (has(name + "_kv_len")) {
      equal(name + "_kv_len", static_cast<int64_t>(context.slots.size()), facts_.get<int64_t>(name + "_kv_len"));
    }
    if (has(name + "_rope")) equal(name + "_rope", context.position, facts_.get<int64_t>(name + "_rope"));
  }

  void editing() {
    if (!has("edit_prompt")) return;
    const auto request = policy::block_ids(*model_, words("edit_prompt"));
    auto check_velocity = [&](const std::string& name, const Context& context, int64_t state) {
      if (!has_tensor(name + "_velocity")) return;
      const auto times = facts_.get<std::vector<double>>("velocity_t");
      compare(name + "_velocity", velocity(context, golden("velocity_x")[state], times.at(state)),
              golden(name + "_velocity"), kOutput);
    };
    Context edit;
    append(edit, latents_block());
    append(edit, vision_block());
    append(edit, request);
    sizes_of("edit", edit);
    check_velocity("edit", edit, 1);
    model_->release(edit);

    if (has("understand_greedy_ids")) {
      const auto want = ids("understand_greedy_ids");
      Context look;
      append(look, vision_block());
      append(look, request);
      equal("understand_greedy_ids", greedy(look, want.size()), want);
      model_->release(look);
    }

    Context second;
    append(second, ids("prompt_ids"));
    append(second, ids("think_ids"));
    append(second, latents_block());
    append(second, vision_block());
    append(second, request);
    sizes_of("round2", second);
    check_velocity("round2", second, 2);
    model_->release(second);
  }

  void training() {
    if (!has("train")) return;
    const auto texts = facts_.get<std::vector<std::vector<std::string>>>("train.texts");
    const auto grids = facts_.get<std::vector<std::vector<int64_t>>>("train.grids");
    const auto times = facts_.get<std::vector<double>>("train.t");
    if (texts.size() != grids.size() || texts.size() != times.size()) {
      throw BadInput("golden.json: 'train' must hold as many texts as grids and times");
    }
    const at::Tensor noise = golden("train_noise");
    std::vector<at::Tensor> cross_entropies, errors;
    int64_t first = 0;
    // Grids differ, so each sample is a batch of its own; losses are means over the tokens of all.
    for (size_t i = 0; i < texts.size(); ++i) {
      if (texts[i].size() != 2 || grids[i].size() != 2)
        throw BadInput("golden.json: 'train': two texts, two sides a sample");
      const LatentGrid sample_grid{grids[i][0], grids[i][1]};
      const at::Tensor clean = nn::patchify(golden("train_latent_" + std::to_string(i)).unsqueeze(0),
                                            model_->config().latent_patch_size);  // [1, L, C]
      const at::Tensor n = noise.narrow(0, first, sample_grid.num_tokens()).unsqueeze(0);
      first += sample_grid.num_tokens();
      const at::Tensor t = at::full({1}, times[i], at::kFloat);
      const auto think = policy::block_ids(*model_, texts[i][1]);
      policy::TrainBatch batch;
      batch.prefixes = {{policy::TextBlock{policy::block_ids(*model_, texts[i][0])}}};
      batch.sequences = {
          {.prefix = 0,
           .blocks = {policy::TextBlock{think}, policy::NoisyBlock{flow::noisy_latents(clean, n, t), t, sample_grid}}}};
      const policy::TrainOutput out = model_->forward_train(batch);
      const auto rows = static_cast<int64_t>(think.size()) - 1;
      const at::Tensor targets = tensor::index_tensor({think.begin() + 1, think.end()}, device_);
      const at::Tensor logits = model_->logits(out.text_hidden.narrow(0, 0, rows));
      cross_entropies.push_back(-kernels::gather_log_prob(logits, targets, 1.0).log_probs);
      errors.push_back((out.velocity - (n - clean).to(device_)).square().squeeze(0));
    }
    const at::Tensor ce = at::cat(cross_entropies), mse = at::cat(errors);
    if (has_tensor("train_ce")) compare_relative("train_ce", ce, golden("train_ce"), kLoss);
    if (has_tensor("train_mse")) compare_relative("train_mse", mse, golden("train_mse"), kLoss);
    const at::Tensor loss = ce.mean() + mse.mean();
    compare_relative("train.loss_value", loss.reshape({1}).detach(),
                     at::full({1}, facts_.get<double>("train.loss_value"), at::kFloat), kLoss);
    loss.backward();
    for (const NamedTensor& parameter : model_->parameters()) {
      const std::string name = "grad." + parameter.name;
      if (has_tensor(name)) compare_relative(name, parameter.tensor.grad(), golden(name), kGradient);
    }
  }

  Facts facts_;
  io::SafetensorsFile tensors_;
  at::Device device_;
  std::unique_ptr<policy::Bagel> model_;
  std::set<std::string> known_, left_;
};

}  // namespace

int run_selftest_bagel(const std::filesystem::path& folder, std::ostream& out, const Runtime& runtime) {
  return Selftest(folder, out, runtime).run();
}

}  // namespace unigrpo::cli
