#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "io/image.h"
#include "io/image_size.h"

namespace unigrpo::io {

/// PNG bytes of an image. Throws RuntimeFailure when the encoder refuses or the pixels do not match
/// the dimensions.
std::vector<uint8_t> encode_png(const Image& image);

/// The same in any of the formats; JPEG and WebP lossy at quality 95 of 100.
std::vector<uint8_t> encode_image(const Image& image, ImageFormat format);

/// Decodes PNG, JPEG (EXIF orientation applied) or WebP as RGB8; transparency is laid over white,
/// as BAGEL's official code does. Throws BadInput naming `path`; refuses more than 64 megapixels
/// before decoding.
Image read_image(const std::filesystem::path& path);

/// What the start of such a file says, without decoding. Throws BadInput naming `path` as read_image does.
ImageHeader read_image_header(const std::filesystem::path& path);

/// Atomic write of a PNG.
void write_png(const std::filesystem::path& path, const Image& image);

/// Tiles images (one size) row by row into a grid with `gap` white pixels between, scaled up by
/// `zoom` with nearest neighbour. Throws RuntimeFailure for no image, different sizes, or
/// columns or zoom below 1.
Image tile_images(std::span<const Image> images, int columns, int gap = 2, int zoom = 1);

}  // namespace unigrpo::io
