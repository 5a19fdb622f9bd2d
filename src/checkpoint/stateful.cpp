#include "checkpoint/stateful.h"

#include <ATen/ATen.h>

#include <set>
#include <utility>

#include "base/error.h"
#include "tensor/convert.h"

namespace unigrpo::checkpoint {
namespace {

/// A piece that a component holds, with the values that the checkpoint has for it.
NamedTensor loaded_piece(const NamedTensor& own, const MappedTensors& part, const std::string& where) {
  const MappedTensor& stored = stored_for(own, part, where);
  const at::ScalarType type = tensor::to_scalar_type(stored.dtype);
  if (type != own.tensor.scalar_type()) {
    throw BadInput("{}: tensor '{}' has dtype {}, expected {}", where, own.name, c10::toString(type),
                   c10::toString(own.tensor.scalar_type()));
  }
  return {own.name, stored.elements(*own.piece, own.tensor.numel()), own.piece};
}

/// Of the tensors that the component has in pieces its own pieces, the others whole.
State loaded_state(const Stateful& component, const LoadedCheckpoint& loaded, const std::string& where) {
  State state{.values = values_of(loaded, component.name())};
  const auto found = loaded.parts.find(component.name());
  if (found == loaded.parts.end()) return state;
  std::set<std::string> in_pieces;
  const State own = component.state();
  for (const NamedTensor& each : own.tensors) {
    if (!each.piece) continue;
    in_pieces.insert(each.name);
    state.tensors.push_back(loaded_piece(each, found->second, where));
  }
  for (const auto& [name, stored] : found->second) {
    if (!in_pieces.contains(name)) state.tensors.push_back({name, stored.whole()});
  }
  return state;
}

}  // namespace

Snapshot take_snapshot(int64_t step, const std::string& recipe_toml, std::span<Stateful* const> components) {
  Snapshot snapshot{.step = step, .recipe_toml = recipe_toml};
  for (const Stateful* component : components) {
    State state = component->state();
    const std::string name = component->name();
    if (!state.tensors.empty()) snapshot.parts[name] = std::move(state.tensors);
    for (auto& [key, value] : state.values) snapshot.counters[name + "." + key] = std::move(value);
  }
  return snapshot;
}

std::map<std::string, std::string> values_of(const LoadedCheckpoint& loaded, const std::string& component) {
  const std::string prefix = component + ".";
  std::map<std::string, std::string> values;
  for (const auto& [key, value] : loaded.counters) {
    if (key.starts_with(prefix)) values[key.substr(prefix.size())] = value;
  }
  return values;
}

void restore(std::span<Stateful* const> components, const LoadedCheckpoint& loaded) {
  for (Stateful* component : components) {
    const std::string where = loaded.folder.string() + ": " + component->name();
    const State state = loaded_state(*component, loaded, where);
    if (!state.tensors.empty() || !state.values.empty()) component->load_state(state, where);
  }
}

}  // namespace unigrpo::checkpoint
