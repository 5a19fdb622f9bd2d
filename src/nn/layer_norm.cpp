#include "nn/layer_norm.h"

#include "kernels/layer_norm.h"

namespace unigrpo::nn {

at::Tensor LayerNorm::operator()(const at::Tensor& x) const { return kernels::layer_norm(x, weight, bias, eps); }

LayerNorm take_layer_norm(Weights& weights, const std::string& name, int64_t width, double eps) {
  return {weights.take(name + ".weight", {width}), weights.take(name + ".bias", {width}), eps};
}

}  // namespace unigrpo::nn
