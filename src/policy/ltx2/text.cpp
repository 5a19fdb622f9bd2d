#include "policy/ltx2/text.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "data/tokenizer/tokenizer.h"
#include "io/class_config.h"
#include "io/model_folder.h"
#include "nn/encoder.h"
#include "policy/ltx2/fresh_weight.h"
#include "tensor/convert.h"
#include "tensor/shape.h"

namespace unigrpo::policy::ltx2 {
namespace {

namespace fs = std::filesystem;

constexpr size_t kShown = 80;  // bytes of a prompt in an error

class FeatureFile : public TextSource {
 public:
  FeatureFile(const fs::path& file, const ConnectorsConfig& connectors)
      : checkpoint_(io::Checkpoint::open(file)), d_(connectors.caption_channels), k_(connectors.num_text_layers) {
    for (const io::TensorView* view : checkpoint_.tensors()) {
      const auto& s = view->shape;
      const bool stacked = s.size() == 3 && s[1] == d_ && s[2] == k_, flat = s.size() == 2 && s[1] == d_ * k_;
      if (!(stacked || flat) || s[0] < 1) {
        throw BadInput("{}: tensor {} has shape {}, the connectors need [*, {}, {}]", file.string(),
                       in_quotes(view->name, kShown), tensor::shape_text(s), d_, k_);
      }
    }
  }
  at::Tensor states(const std::string& prompt) override {
    const io::TensorView* view = checkpoint_.find(prompt);
    if (view == nullptr) {
      throw BadInput("{}: has no features of the prompt {}", checkpoint_.path().string(), in_quotes(prompt, kShown));
    }
    return tensor::to_tensor(*view, at::kFloat).view({-1, d_, k_});
  }

 private:
  io::Checkpoint checkpoint_;
  int64_t d_, k_;
};

struct TextEncoderConfig {
  int64_t vocab_size = 0, max_length = 0;
  nn::EncoderConfig encoder;
};

TextEncoderConfig read_text_encoder_config(const fs::path& path, const ConnectorsConfig& connectors) {
  auto file = io::ClassConfig::open(path, {"UniGRPOTextEncoder"});
  TextEncoderConfig c;
  c.vocab_size = file.integer("vocab_size", 1024);
  c.max_length = file.integer("max_length", 64, 1 << 16);
  c.encoder.hidden_size = file.integer("hidden_size", 64, 1 << 16);
  c.encoder.intermediate_size = file.integer("intermediate_size", 4 * c.encoder.hidden_size);
  c.encoder.num_layers = file.integer("num_layers", 2, 1024);
  c.encoder.num_heads = file.integer("num_heads", 4, 1024);
  file.finish();
  if (c.encoder.hidden_size % c.encoder.num_heads != 0) {
    file.refuse("num_heads",
                fmt::format("{} does not divide hidden_size {}", c.encoder.num_heads, c.encoder.hidden_size));
  }
  if (c.encoder.hidden_size != connectors.caption_channels || connectors.num_text_layers != 1) {
    file.refuse("hidden_size", fmt::format("gives [{}, 1], the connectors need [{}, {}]", c.encoder.hidden_size,
                                           connectors.caption_channels, connectors.num_text_layers));
  }
  return c;
}

class TextEncoder : public TextSource {
 public:
  TextEncoder(const fs::path& folder, const TextEncoderConfig& config, nn::Weights weights)
      : config_(config),
        folder_(folder),
        tokenizer_(data::open_tokenizer(folder)),
        tokens_(weights.take("embed_tokens.weight", {config.vocab_size, config.encoder.hidden_size})),
        places_(weights.take("embed_positions.weight", {config.max_length, config.encoder.hidden_size})),
        encoder_(config.encoder, "encoder", weights),
        norm_(nn::take_layer_norm(weights, "final_layer_norm", config.encoder.hidden_size, 1e-5)) {
    weights.finish();
    for (const auto& [name, tensor] : weights.tensors()) parameters_.push_back({name, tensor});
    if (tokenizer_->vocab_size() > config.vocab_size) {
      throw BadInput("{}: 'vocab_size' is {}, the tokenizer has {} ids", (folder / "config.json").string(),
                     config.vocab_size, tokenizer_->vocab_size());
    }
  }
  at::Tensor states(const std::string& prompt) override {
    const std::vector<int64_t> ids = tokenizer_->encode(prompt);
    const auto length = static_cast<int64_t>(ids.size());
    if (length < 1 || length > config_.max_length) {
      throw BadInput("{}: the prompt {} has {} tokens, must have 1 to {}", folder_.string(), in_quotes(prompt, kShown),
                     length, config_.max_length);
    }
    const at::Tensor x = tokens_.index_select(0, tensor::index_tensor(ids)) + places_.narrow(0, 0, length);
    return norm_(encoder_(x.unsqueeze(0))).squeeze(0).unsqueeze(-1);
  }
  NamedTensors parameters() const override { return parameters_; }

 private:
  TextEncoderConfig config_;
  fs::path folder_;
  std::unique_ptr<data::Tokenizer> tokenizer_;
  at::Tensor tokens_, places_;
  nn::Encoder encoder_;
  nn::LayerNorm norm_;
  NamedTensors parameters_;
};

class PolicyText : public TextSource {
 public:
  PolicyText(UnifiedPolicy& policy, const ConnectorsConfig& connectors) : policy_(policy), connectors_(connectors) {}
  at::Tensor states(const std::string& prompt) override {
    const at::NoGradGuard no_grad;
    TrainBatch batch;
    batch.prefixes = {{}};
    batch.sequences = {{.prefix = 0, .blocks = {TextBlock{block_ids(policy_, prompt)}}}};
    const at::Tensor hidden = policy_.forward_train(batch).text_hidden.to(at::kCPU, at::kFloat);
    if (hidden.size(1) != connectors_.caption_channels || connectors_.num_text_layers != 1) {
      throw BadInput("the text policy's hidden states are [{}, 1], the connectors need [{}, {}]", hidden.size(1),
                     connectors_.caption_channels, connectors_.num_text_layers);
    }
    return hidden.unsqueeze(-1);
  }

 private:
  UnifiedPolicy& policy_;
  ConnectorsConfig connectors_;
};

}  // namespace

std::unique_ptr<TextSource> open_text_features(const fs::path& file, const ConnectorsConfig& connectors) {
  return std::make_unique<FeatureFile>(file, connectors);
}

std::unique_ptr<TextSource> open_text_encoder(const fs::path& folder, const ConnectorsConfig& connectors,
                                              std::optional<uint64_t> fresh) {
  const TextEncoderConfig config = read_text_encoder_config(folder / "config.json", connectors);
  const auto file = io::find_weights(folder);
  if (file || !fresh) {
    return std::make_unique<TextEncoder>(folder, config,
                                         nn::open_weights(file.value_or(folder / "model.safetensors"), at::kFloat));
  }
  const auto make = [&](const std::string& name, const std::vector<int64_t>& shape) {
    return fresh_weight("text_encoder", name, shape, *fresh);
  };
  return std::make_unique<TextEncoder>(folder, config, nn::Weights(folder.string(), make));
}

std::unique_ptr<TextSource> policy_text(UnifiedPolicy& policy, const ConnectorsConfig& connectors) {
  return std::make_unique<PolicyText>(policy, connectors);
}

TextStates padded_left(std::span<const at::Tensor> states, int64_t length, int64_t multiple) {
  int64_t longest = 1;
  for (const at::Tensor& one : states) longest = std::max(longest, one.size(0));
  if (length == 0) length = (longest + multiple - 1) / multiple * multiple;
  if (longest > length) throw BadInput("a prompt has {} text features, at most {} fit", longest, length);
  std::vector<at::Tensor> hidden, masks;
  for (const at::Tensor& one : states) {
    const int64_t padding = length - one.size(0);
    hidden.push_back(at::constant_pad_nd(one, {0, 0, 0, 0, padding, 0}, 0));
    masks.push_back(at::arange(length, at::kLong).ge(padding).to(at::kLong));
  }
  return {.hidden = at::stack(hidden), .mask = at::stack(masks)};
}

}  // namespace unigrpo::policy::ltx2
