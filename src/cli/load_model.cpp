#include "cli/load_model.h"

#include <ATen/ATen.h>

#include "base/error.h"
#include "checkpoint/export_peft.h"
#include "optim/parameters.h"
#include "policy/load.h"

namespace unigrpo::cli {

std::unique_ptr<policy::UnifiedPolicy> load_model(const std::string& folder, const std::string& adapter, const std::string& dtype) {
  policy::PolicyConfig config;
  config.model = folder;
  config.freeze = {"*"};
  const auto choice = enum_value<policy::DtypeChoice>(dtype);
  if (!choice) throw BadInput("--dtype: expected {}, got '{}'", enum_choices<policy::DtypeChoice>(), dtype);
  config.dtype = *choice;
  if (adapter.empty()) return policy::load(config, 0);
  const checkpoint::LoraAdapter lora = checkpoint::read_peft(adapter);
  config.train = policy::TrainMode::lora;
  config.lora.rank = lora.rank;
  config.lora.alpha = lora.alpha;
  config.lora.targets.clear();
  for (const NamedTensor& tensor : lora.tensors) {
    const auto tail = tensor.name.find(".lora_A.weight");
    if (tail != std::string::npos) config.lora.targets.push_back(tensor.name.substr(0, tail) + ".weight");
  }
  auto model = policy::load(config, 0);
  NamedTensors destination, source;
  for (const NamedTensor& parameter : model->parameters()) {
    if (parameter.name.find(".lora_") == std::string::npos) continue;
    destination.push_back({parameter.name, parameter.tensor.detach()});
  }
  for (const NamedTensor& tensor : lora.tensors) source.push_back({tensor.name, tensor.tensor.to(at::kFloat)});
  optim::assign(destination, source, adapter);
  return model;
}

}  // namespace unigrpo::cli
