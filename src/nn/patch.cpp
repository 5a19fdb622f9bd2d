#include "nn/patch.h"

#include <ATen/ATen.h>

#include <cmath>

namespace unigrpo::nn {

at::Tensor patchify(const at::Tensor& map, int64_t patch) {
  const int64_t b = map.size(0), c = map.size(1), h = map.size(2) / patch, w = map.size(3) / patch;
  return map.reshape({b, c, h, patch, w, patch}).permute({0, 2, 4, 3, 5, 1}).reshape({b, h * w, patch * patch * c});
}

at::Tensor unpatchify(const at::Tensor& tokens, int64_t height, int64_t width, int64_t patch) {
  const int64_t b = tokens.size(0), c = tokens.size(2) / (patch * patch);
  return tokens.reshape({b, height, width, patch, patch, c})
      .permute({0, 5, 1, 3, 2, 4})
      .reshape({b, c, height * patch, width * patch});
}

at::Tensor grid_position_ids(int64_t height, int64_t width, int64_t side, at::Device device) {
  const auto options = at::TensorOptions(at::kLong).device(device);
  const at::Tensor rows = at::arange(height, options).unsqueeze(1) * side;
  return (rows + at::arange(width, options)).flatten();
}

at::Tensor sincos_position_table(int64_t side, int64_t dim) {
  const int64_t quarter = dim / 4;
  const at::Tensor omega = at::pow(10000.0, -at::arange(quarter, at::kDouble) / static_cast<double>(quarter));
  const at::Tensor line = at::arange(side, at::kDouble);
  const at::Tensor column = line.repeat({side});        // x of each cell, row by row
  const at::Tensor row = line.repeat_interleave(side);  // y of each cell
  auto encode = [&](const at::Tensor& position) {
    const at::Tensor angle = position.unsqueeze(1) * omega;  // [side^2, dim / 4]
    return at::cat({angle.sin(), angle.cos()}, 1);
  };
  return at::cat({encode(column), encode(row)}, 1).to(at::kFloat);
}

at::Tensor timestep_features(const at::Tensor& t, int64_t dim) {
  const int64_t half = dim / 2;
  const auto options = at::TensorOptions().dtype(at::kFloat).device(t.device());
  const at::Tensor frequency = at::exp(at::arange(half, options) * (-std::log(10000.0) / static_cast<double>(half)));
  const at::Tensor angle = t.to(at::kFloat).unsqueeze(1) * frequency;
  return at::cat({angle.cos(), angle.sin()}, 1);
}

}  // namespace unigrpo::nn
