#include "checkpoint/load_adapter.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "checkpoint/export_peft.h"
#include "optim/parameters.h"
#include "policy/load.h"

namespace unigrpo::checkpoint {
namespace {

constexpr char kFactorA[] = ".lora_A.weight", kFactorB[] = ".lora_B.weight";
constexpr char kEmbeddingA[] = ".lora_embedding_A", kEmbeddingB[] = ".lora_embedding_B";

using ByName = std::map<std::string, at::Tensor>;

bool ends_with_any(const std::string& name, std::initializer_list<const char*> tails) {
  return std::ranges::any_of(tails, [&](const char* tail) { return name.ends_with(tail); });
}

// A linear layer of the language model, which takes an adapter beside its weight.
bool is_layer(const std::string& name) {
  return name.find("model.layers.") != std::string::npos && ends_with_any(name, {kFactorA, kFactorB});
}

ByName weights_of(const policy::UnifiedPolicy& model) {
  ByName weights;
  for (const NamedTensor& parameter : model.parameters()) weights.emplace(parameter.name, parameter.tensor.detach());
  return weights;
}

const at::Tensor& weight_of(const ByName& weights, const std::string& name, const std::string& where) {
  const auto found = weights.find(name);
  if (found == weights.end()) {
    throw BadInput(
        "{}: is of '{}', and the model has no such weight (an lm_head that is tied to the embeddings is none)", where,
        name);
  }
  return found->second;
}

// Equal in the coarser of both types: one of the two may have been loaded in another than it was saved in.
bool same_values(const at::Tensor& held, const at::Tensor& own) {
  if (held.sizes() != own.sizes()) return false;
  return at::equal(held.to(own.scalar_type()), own) || at::equal(held, own.to(held.scalar_type()));
}

void require_same_base(const LoraAdapter& adapter, const ByName& weights, const std::string& where) {
  for (const NamedTensor& held : adapter.base_weights) {
    const at::Tensor& own = weight_of(weights, held.name, where);
    if (same_values(held.tensor, own)) continue;
    throw BadInput(
        "{}: holds '{}' [{}] of its base, and the model's [{}] is another; give the base that it was trained on "
        "(trained "
        "or resized embeddings: merge_and_unload() and save_pretrained() in PEFT write one model)",
        where, held.name, fmt::join(held.tensor.sizes(), ", "), fmt::join(own.sizes(), ", "));
  }
}

// W + scale B A, of an embedding [ids, width] W + scale (B A)^T.
void add_product(const LoraAdapter& adapter, const ByName& factors, const ByName& weights, const std::string& where) {
  for (const auto& [name, a] : factors) {
    const bool embedding = name.ends_with(kEmbeddingA);
    if (!embedding && !name.ends_with(kFactorA)) continue;
    const std::string module = name.substr(0, name.size() - std::string(embedding ? kEmbeddingA : kFactorA).size());
    at::Tensor weight = weight_of(weights, module + ".weight", where);
    if (module.ends_with("embed_tokens") &&
        !weights.contains(module.substr(0, module.size() - std::string("model.embed_tokens").size()) +
                          "lm_head.weight")) {
      throw BadInput(
          "{}: adapts '{}', to which the model's lm_head is tied; PEFT adapts the one without the other, and "
          "here they are one weight",
          where, module);
    }
    const at::Tensor& b = factors.at(module + (embedding ? kEmbeddingB : kFactorB));
    const at::Tensor product = at::mm(b.to(at::kFloat), a.to(at::kFloat));  // [out, in]
    const at::Tensor update = embedding ? product.t() : product;
    if (update.sizes() != weight.sizes()) {
      throw BadInput("{}: '{}' makes an update [{}], the model's weight is [{}]", where, name,
                     fmt::join(update.sizes(), ", "), fmt::join(weight.sizes(), ", "));
    }
    weight.copy_(weight.to(at::kFloat) + adapter.alpha / static_cast<double>(adapter.rank) * update);
  }
}

}  // namespace

std::unique_ptr<policy::UnifiedPolicy> load_with_adapter(policy::PolicyConfig config,
                                                         const std::filesystem::path& folder, const Runtime& runtime) {
  const at::NoGradGuard no_grad;
  const std::string where = folder.string();
  const LoraAdapter adapter = read_peft(folder);
  NamedTensors in_layers;
  ByName elsewhere;
  config.lora = {.rank = adapter.rank, .alpha = adapter.alpha, .targets = {}};
  for (const NamedTensor& tensor : adapter.tensors) {
    if (!is_layer(tensor.name)) {
      elsewhere.emplace(tensor.name, tensor.tensor);
      continue;
    }
    in_layers.push_back({tensor.name, tensor.tensor.to(at::kFloat)});
    const size_t tail = tensor.name.find(kFactorA);
    if (tail != std::string::npos) config.lora.targets.push_back(tensor.name.substr(0, tail) + ".weight");
  }
  config.train = in_layers.empty() ? policy::TrainMode::full : policy::TrainMode::lora;
  auto model = policy::load(config, runtime);
  const ByName weights = weights_of(*model);
  require_same_base(adapter, weights, where);
  NamedTensors destination;
  for (const auto& [name, tensor] : weights) {
    if (name.find(".lora_") != std::string::npos) destination.push_back({name, tensor});
  }
  for (NamedTensor& tensor : in_layers) {
    const auto own = weights.find(tensor.name);  // absent: assign() tells
    if (own != weights.end()) tensor.tensor = tensor.tensor.to(own->second.scalar_type());
  }
  optim::assign(destination, in_layers, where);
  add_product(adapter, elsewhere, weights, where);
  return model;
}

}  // namespace unigrpo::checkpoint
