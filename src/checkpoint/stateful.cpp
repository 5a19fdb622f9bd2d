#include "checkpoint/stateful.h"

#include <algorithm>

#include "parallel/sharded_model.h"

namespace unigrpo::checkpoint {

Snapshot take_snapshot(int64_t step, const std::string& recipe_toml, std::span<Stateful* const> components,
                       parallel::Comm* ranks) {
  Snapshot snapshot{.step = step, .recipe_toml = recipe_toml};
  for (const Stateful* component : components) {
    State state = component->state();
    const std::string name = component->name();
    const bool has_pieces =
        std::ranges::any_of(state.tensors, [](const NamedTensor& one) { return one.piece.has_value(); });
    if (has_pieces) state.tensors = parallel::whole_on_root(*ranks, state.tensors);
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
    const std::string name = component->name();
    State state{.values = values_of(loaded, name)};
    if (loaded.parts.contains(name)) state.tensors = loaded.tensors(name);
    if (!state.tensors.empty() || !state.values.empty()) {
      component->load_state(state, loaded.folder.string() + ": " + name);
    }
  }
}

}  // namespace unigrpo::checkpoint
