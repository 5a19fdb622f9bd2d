#pragma once

#include <map>
#include <string>
#include <string_view>

#include "tensor/named_tensor.h"

namespace unigrpo {

/// What a component needs to go on as if it had never stopped: tensors by name, and values as text.
struct State {
  NamedTensors tensors = {};
  std::map<std::string, std::string> values = {};
};

/// A component whose state a checkpoint keeps: optimizer, EMA, gradient clip, running statistics, drift monitor, the
/// place in the data. Its tensors are the checkpoint's part `<name>.safetensors`, its values stand in state.json.
class Stateful {
 public:
  virtual ~Stateful() = default;
  virtual std::string name() const = 0;
  /// Tensors may share memory with the component.
  virtual State state() const = 0;
  /// Takes over such a state bit for bit. Throws BadInput naming `where` and what does not fit.
  virtual void load_state(const State& state, const std::string& where) = 0;
};

/// The value `key` as a whole number. Throws BadInput naming `where` where it is absent or not one.
int64_t integer_value(const State& state, const std::string& key, const std::string& where);

}  // namespace unigrpo
