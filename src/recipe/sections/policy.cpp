#include "base/device_name.h"
#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using policy::LoraConfig, policy::PolicyConfig;

constexpr TextRule kDevice = {is_device_name, kDeviceNames.data(), ""};

Section policy_section() {
  return Builder("policy", "the model that is trained", [](Recipe& r, size_t) -> auto& { return r.policy; })
      .row("model", &PolicyConfig::model, "model folder in the official BAGEL, Qwen2.5 or LTX-2 layout", {}, kForTrain)
      .row("device", &PolicyConfig::device, "what holds the weights and does the arithmetic; may change on --resume",
           text(kDevice))
      .row("dtype", &PolicyConfig::dtype, "of the forward pass; master weights are float32 always")
      .row("train", &PolicyConfig::train, "all weights, or LoRA adapters")
      .row("freeze", &PolicyConfig::freeze,
           "patterns (* and ?) of parameters that stay as they are, with train = \"full\"; each of a list of your own "
           "must fit one that those before it left",
           list_or_empty(kNonEmpty))
      .row("recompute", &PolicyConfig::recompute,
           "run each layer again in the backward pass instead of keeping its activations");
}

Section policy_lora_section() {
  return Builder("policy.lora", "adapters, with policy.train = \"lora\"",
                 [](Recipe& r, size_t) -> auto& { return r.policy.lora; })
      .row("rank", &LoraConfig::rank, "of the two factors", between(1, 4096))
      .row("alpha", &LoraConfig::alpha, "the update is scaled by alpha / rank", between(1e-3, kLarge))
      .row("dropout", &LoraConfig::dropout, "of the adapters' inputs in the update; ratios then do not start at 1",
           between(0, 0.9))
      .row("targets", &LoraConfig::targets,
           "patterns (* and ?) of the weights to adapt; each of a list of your own must fit one", list(kNonEmpty));
}

}  // namespace

std::vector<Section> policy_sections() { return {policy_section(), policy_lora_section()}; }

}  // namespace unigrpo::recipe
