#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/sample.h"
#include "io/image.h"
#include "reward/score.h"
#include "scorers/clip_config.h"
#include "scorers/clip_model.h"

namespace unigrpo::scorers {

/// What the model sees of the images: [B, 3, crop_size, crop_size] float32, as transformers' CLIPImageProcessor makes
/// it with Pillow (see data/image_resize.h for which).
at::Tensor pixel_values(const ClipImageConfig& config, std::span<const Image* const> images);

/// The last images of those samples that have one to judge.
struct ImagesToJudge {
  std::vector<size_t> rows;  // of the samples
  std::vector<const Image*> images;
};

/// For the samples left out, `scores` gets the reason.
ImagesToJudge images_to_judge(std::span<const data::Sample> samples, std::vector<reward::Score>& scores);

/// Image embeddings of length 1, `batch_size` images at a time: [N, P].
at::Tensor embed_images(const ClipModel& model, const ClipImageConfig& config, std::span<const Image* const> images,
                        int64_t batch_size);

/// Rows scaled to length 1.
at::Tensor to_unit_length(const at::Tensor& features);

}  // namespace unigrpo::scorers
