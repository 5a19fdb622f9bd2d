#pragma once

#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

#include <string>
#include <tuple>
#include <utility>

/// Every operation here is registered in one way:
///
///   TORCH_LIBRARY_FRAGMENT(unigrpo, m)                         its schema, and that of its backward where it has one
///   TORCH_LIBRARY_IMPL(unigrpo, CompositeImplicitAutograd, m)  the reference composition, on backends without loops
///   TORCH_LIBRARY_IMPL(unigrpo, CPU, m), and CUDA in the .cu   a backend's own loops
///   TORCH_LIBRARY_IMPL(unigrpo, Autograd, m)                   the gradient of those, a torch::autograd::Function
///
/// so that a backend gains loops of its own by registering them, and no caller asks which there are.
namespace unigrpo::kernels {

/// The operator "unigrpo::<name>" with the signature of a function that implements it.
template <typename Result, typename... Args>
c10::TypedOperatorHandle<Result(Args...)> find_op(const char* name, Result (* /*implementation*/)(Args...)) {
  return c10::Dispatcher::singleton()
      .findSchemaOrThrow((std::string("unigrpo::") + name).c_str(), "")
      .typed<Result(Args...)>();
}

/// Calls an operator: straight its loops where nothing is recorded.
template <typename Result, typename... Args, typename... Given>
Result call(const c10::TypedOperatorHandle<Result(Args...)>& op, Given&&... given) {
  if (at::GradMode::is_enabled()) return op.call(std::forward<Given>(given)...);
  const at::AutoDispatchBelowADInplaceOrView below;
  return op.call(std::forward<Given>(given)...);
}

/// The same of the operator `name`, looked up once; `implementation`: its loops on the CPU, for the signature.
template <auto implementation, typename... Given>
auto call(const char* name, Given&&... given) {
  static const auto op = find_op(name, implementation);
  return call(op, std::forward<Given>(given)...);
}

/// The operator's gradient, to be registered for Autograd: a torch::autograd::Function with the signature of
/// `implementation`, whose outputs are the operator's in order.
template <typename Gradient, typename... Args>
auto gradient(at::Tensor (* /*implementation*/)(Args...)) {
  return [](Args... args) -> at::Tensor { return Gradient::apply(args...); };
}
template <typename Gradient, typename... Results, typename... Args>
auto gradient(std::tuple<Results...> (* /*implementation*/)(Args...)) {
  return [](Args... args) {
    const torch::autograd::variable_list out = Gradient::apply(args...);
    return [&]<size_t... k>(std::index_sequence<k...>) {
      return std::tuple<Results...>(out[k]...);
    }(std::index_sequence_for<Results...>{});
  };
}

}  // namespace unigrpo::kernels
