#include "flow/guidance.h"

#include <ATen/ATen.h>

#include "tensor/shape.h"

namespace unigrpo::flow {
namespace {

/// Euclidean norm a latent token [B, L, 1], or a sample [B, 1, 1].
at::Tensor norm_of(const at::Tensor& velocity, bool per_token) {
  if (per_token) return at::linalg_vector_norm(velocity, 2, {-1}, /*keepdim=*/true);
  return at::linalg_vector_norm(velocity, 2, {1, 2}, /*keepdim=*/true);
}

}  // namespace

bool guidance_acts(const GuidanceConfig& config, double t) {
  return config.text_scale > 1 && t > config.interval_low && t <= config.interval_high;
}

//   v_text  = v_no_text  + s_text (v - v_no_text)
//   v_image = v_no_image + s_image (v_text - v_no_image)
//   result  = v_image * clamp( |v| / |v_image|, renorm_min, 1 )
//
// so guidance may turn the velocity but not lengthen it. text_channel applies the factor to v_text
// instead, before the image guidance.
at::Tensor guide(const GuidanceConfig& config, const GuidedVelocities& velocities) {
  const at::Tensor v = tensor::at_least_float32(velocities.conditional);
  tensor::check_shape(v, {-1, -1, -1}, "conditional velocity [B, L, D]");
  if (config.text_scale <= 1) return v;
  tensor::check_same_shape(v, "conditional velocity", velocities.without_text, "velocity without text");
  const at::Tensor no_text = velocities.without_text.to(v.scalar_type());

  const auto renormalise = [&](const at::Tensor& guided, bool per_token) {
    const at::Tensor factor = norm_of(v, per_token) / (norm_of(guided, per_token) + 1e-8);
    return guided * factor.clamp(config.renorm_min, 1.0);
  };
  at::Tensor guided = no_text + config.text_scale * (v - no_text);
  if (config.renorm == Renorm::text_channel) guided = renormalise(guided, /*per_token=*/true);
  if (config.image_scale > 1) {
    tensor::check_same_shape(v, "conditional velocity", velocities.without_image, "velocity without images");
    const at::Tensor no_image = velocities.without_image.to(v.scalar_type());
    guided = no_image + config.image_scale * (guided - no_image);
  }
  if (config.renorm == Renorm::text_channel) return guided;
  return renormalise(guided, config.renorm == Renorm::channel);
}

}  // namespace unigrpo::flow
