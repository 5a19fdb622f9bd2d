#include "scorers/images.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/image_resize.h"

namespace unigrpo::scorers {
namespace {

// A strip of pixels would grow into an image of gigabytes before it is cropped.
constexpr int kMaxAspect = 100;

/// What each byte of each channel becomes; the order of operations and their types are those of the official code.
using Table = std::array<std::array<float, 256>, 3>;

Table make_table(const ClipImageConfig& config) {
  Table table;
  for (size_t c = 0; c < 3; ++c) {
    for (int byte = 0; byte < 256; ++byte) {
      const auto scaled = static_cast<float>(byte * config.rescale_factor);
      table[c][static_cast<size_t>(byte)] =
          (scaled - static_cast<float>(config.mean[c])) / static_cast<float>(config.std[c]);
    }
  }
  return table;
}

Image resize_shortest(const Image& image, int64_t shortest_edge) {
  const auto scaled = [&](int side, int other) {
    if (side <= other) return shortest_edge;
    return static_cast<int64_t>(static_cast<double>(shortest_edge * side) / other);
  };
  return data::resize_bicubic(image, {scaled(image.width, image.height), scaled(image.height, image.width)});
}

void write_crop(const Image& image, const Table& table, int64_t crop, float* out) {
  const int64_t left = (image.width - crop) / 2, top = (image.height - crop) / 2;
  for (size_t c = 0; c < 3; ++c) {
    for (int64_t y = 0; y < crop; ++y) {
      const uint8_t* pixel = image.at(static_cast<int>(left), static_cast<int>(top + y)) + c;
      for (int64_t x = 0; x < crop; ++x) *out++ = table[c][pixel[3 * x]];
    }
  }
}

std::string why_not_judged(const Image* image) {
  if (image == nullptr) return "no image";
  const auto [shortest, longest] = std::minmax(image->width, image->height);
  if (shortest < 1) return "an image without pixels";
  if (longest / shortest < kMaxAspect) return "";
  return fmt::format("an image of {}x{} pixels: one side is {} times the other or more", image->width, image->height,
                     kMaxAspect);
}

}  // namespace

at::Tensor pixel_values(const ClipImageConfig& config, std::span<const Image* const> images) {
  const Table table = make_table(config);
  const int64_t crop = config.crop_size;
  at::Tensor values = at::empty({static_cast<int64_t>(images.size()), 3, crop, crop}, at::kFloat);
  float* out = values.mutable_data_ptr<float>();
  at::parallel_for(0, static_cast<int64_t>(images.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      write_crop(resize_shortest(*images[static_cast<size_t>(i)], config.shortest_edge), table, crop,
                 out + i * 3 * crop * crop);
    }
  });
  return values;
}

ImagesToJudge images_to_judge(std::span<const data::Sample> samples, std::vector<reward::Score>& scores) {
  ImagesToJudge judged;
  for (size_t n = 0; n < samples.size(); ++n) {
    const Image* image = samples[n].last_image();
    scores[n].reason = why_not_judged(image);
    if (!scores[n].reason.empty()) continue;
    judged.rows.push_back(n);
    judged.images.push_back(image);
  }
  return judged;
}

at::Tensor to_unit_length(const at::Tensor& features) { return features / features.norm(2, -1, /*keepdim=*/true); }

at::Tensor embed_images(const ClipModel& model, const ClipImageConfig& config, std::span<const Image* const> images,
                        int64_t batch_size) {
  std::vector<at::Tensor> parts;
  for (size_t begin = 0; begin < images.size(); begin += static_cast<size_t>(batch_size)) {
    const auto part = images.subspan(begin, std::min(static_cast<size_t>(batch_size), images.size() - begin));
    parts.push_back(to_unit_length(model.image_features(pixel_values(config, part))));
  }
  return at::cat(parts, 0);
}

}  // namespace unigrpo::scorers
