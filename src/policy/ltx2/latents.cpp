#include "policy/ltx2/latents.h"

#include <ATen/ATen.h>

namespace unigrpo::policy::ltx2 {

at::Tensor pack_video(const at::Tensor& latents) { return latents.flatten(2).transpose(1, 2).contiguous(); }

at::Tensor unpack_video(const at::Tensor& tokens, int64_t frames, int64_t height, int64_t width) {
  return tokens.transpose(1, 2).reshape({tokens.size(0), tokens.size(2), frames, height, width});
}

at::Tensor pack_audio(const at::Tensor& latents) { return latents.transpose(1, 2).flatten(2); }

at::Tensor unpack_audio(const at::Tensor& tokens, int64_t bins) {
  return tokens.unflatten(2, {-1, bins}).transpose(1, 2);
}

}  // namespace unigrpo::policy::ltx2
