#include "checkpoint/stateful.h"

namespace unigrpo::checkpoint {

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

void restore(std::span<Stateful* const> components, const LoadedCheckpoint& loaded) {
  for (Stateful* component : components) {
    const std::string name = component->name();
    State state;
    if (loaded.parts.contains(name)) state.tensors = loaded.tensors(name);
    for (const auto& [key, value] : loaded.counters) {
      if (key.starts_with(name + ".")) state.values[key.substr(name.size() + 1)] = value;
    }
    if (!state.tensors.empty() || !state.values.empty()) {
      component->load_state(state, loaded.folder.string() + ": " + name);
    }
  }
}

}  // namespace unigrpo::checkpoint
