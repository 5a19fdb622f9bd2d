#include "checkpoint/checkpoint_weights.h"

#include <ATen/ATen.h>

#include <set>
#include <string_view>
#include <unordered_map>

#include "base/error.h"
#include "policy/merge_lora.h"

namespace unigrpo::checkpoint {
namespace {

void require_fits(const optim::NamedParameters& trained, const MappedTensors& part, const std::string& where) {
  std::set<std::string_view> expected;
  for (const optim::NamedParameter& own : trained) {
    expected.insert(own.name);
    stored_for(own, part, where);
  }
  for (const auto& [name, tensor] : part) {
    if (!expected.contains(name)) throw BadInput("{}: unexpected tensor '{}'", where, name);
  }
}

}  // namespace

std::vector<LazyWeight> checkpoint_weights(const policy::UnifiedPolicy& model, const optim::NamedParameters& trained,
                                           const policy::LoraConfig& lora, const MappedTensors& part,
                                           const std::string& where) {
  require_fits(trained, part, where);
  std::unordered_map<std::string, at::ScalarType> types;  // the model's
  for (const NamedTensor& parameter : model.parameters()) types[parameter.name] = parameter.tensor.scalar_type();
  const auto value = [&part, &types](const std::string& name) {
    return part.find(name)->second.whole().to(types.at(name));
  };
  std::vector<LazyWeight> weights;
  for (const NamedTensor& merged : model.merged()) {
    const std::string& name = merged.name;
    LazyWeight weight{.name = name, .shape = merged.tensor.sizes().vec(), .dtype = merged.tensor.scalar_type()};
    const at::ScalarType type = types.at(name);
    const std::string module = name.ends_with(".weight") ? name.substr(0, name.size() - 7) : "";
    const std::string a = module + ".lora_A.weight", b = module + ".lora_B.weight";
    if (const auto found = part.find(name); found != part.end()) {
      weight.make = [type, values = &found->second](const io::TensorView*, const LazyWeight::Take& take) {
        for_each_run(*values, [&](const at::Tensor& elements) { take(elements.to(type)); });
      };
    } else if (part.contains(a)) {
      const double scale = lora.alpha / static_cast<double>(lora.rank);
      weight.make = [type, a = value(a), b = value(b), scale](const io::TensorView* source,
                                                              const LazyWeight::Take& take) {
        take(policy::merge_lora(mapped(*source).whole().to(type), a, b, scale));
      };
    } else {
      weight.make = [type](const io::TensorView* source, const LazyWeight::Take& take) {
        for_each_run(mapped(*source), [&](const at::Tensor& elements) { take(elements.to(type)); });
      };
    }
    weights.push_back(std::move(weight));
  }
  return weights;
}

}  // namespace unigrpo::checkpoint
