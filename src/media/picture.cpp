#include "media/picture.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <new>

#include "base/error.h"
#include "media/input.h"

extern "C" {
#include <libavformat/avformat.h>
#include <libavutil/display.h>
#include <libavutil/frame.h>
#include <libavutil/imgutils.h>
#include <libswscale/swscale.h>
}

namespace unigrpo::media {
namespace {

struct Format {
  AVPixelFormat format;
  bool full_range;
};

/// The old formats that stand for full range, as the ones of today.
Format format_of(const AVFrame& frame) {
  const bool full = frame.color_range == AVCOL_RANGE_JPEG;
  switch (frame.format) {
    case AV_PIX_FMT_YUVJ420P:
      return {AV_PIX_FMT_YUV420P, true};
    case AV_PIX_FMT_YUVJ422P:
      return {AV_PIX_FMT_YUV422P, true};
    case AV_PIX_FMT_YUVJ444P:
      return {AV_PIX_FMT_YUV444P, true};
    case AV_PIX_FMT_YUVJ440P:
      return {AV_PIX_FMT_YUV440P, true};
    case AV_PIX_FMT_YUVJ411P:
      return {AV_PIX_FMT_YUV411P, true};
    default:
      return {static_cast<AVPixelFormat>(frame.format), full};
  }
}

int coefficients_of(const AVFrame& frame) {
  switch (frame.colorspace) {
    case AVCOL_SPC_BT709:
      return SWS_CS_ITU709;
    case AVCOL_SPC_FCC:
      return SWS_CS_FCC;
    case AVCOL_SPC_SMPTE240M:
      return SWS_CS_SMPTE240M;
    case AVCOL_SPC_BT2020_NCL:
    case AVCOL_SPC_BT2020_CL:
      return SWS_CS_BT2020;
    default:
      return SWS_CS_DEFAULT;  // BT.601, as ffmpeg takes what says nothing
  }
}

constexpr int kRowAlignment = 64;  // libswscale's vector code writes whole registers

}  // namespace

Orientation orientation_of(const AVStream& stream) {
  size_t size = 0;
  const uint8_t* data = av_stream_get_side_data(&stream, AV_PKT_DATA_DISPLAYMATRIX, &size);
  if (data == nullptr || size < 9 * sizeof(int32_t)) return {};
  // Shown at (a x + c y, b x + d y), in 16.16 numbers.
  const auto* matrix = reinterpret_cast<const int32_t*>(data);
  const double a = matrix[0], b = matrix[1], c = matrix[3], d = matrix[4];
  const double along = std::abs(a) + std::abs(d), across = std::abs(b) + std::abs(c);
  const double small = std::min(along, across), large = std::max(along, across);
  if (large == 0 || small > 1e-2 * large) return {.odd_angle = large != 0};
  const bool transpose = across > along;
  Orientation orientation = {
      .transpose = transpose, .mirror_x = transpose ? c < 0 : a < 0, .mirror_y = transpose ? b < 0 : d < 0};
  const double turned = -av_display_rotation_get(matrix);
  orientation.degrees = std::isnan(turned) ? 0 : (static_cast<int>(std::lround(turned)) % 360 + 360) % 360;
  return orientation;
}

PictureSize Painter::size_for(int width, int height, double sample_aspect) const {
  const double square_width = width * (sample_aspect > 0 ? sample_aspect : 1);
  double scale = 1;
  if (max_side_ > 0) scale = std::min(1.0, max_side_ / std::max<double>(square_width, height));
  const auto side = [&](double length) { return std::max(1.0, std::round(length * scale)); };
  const double w = side(square_width), h = side(height);
  if (square_width < 0.5 || w > kMaxSide || h > kMaxSide) return {};
  const PictureSize size = {static_cast<int>(w), static_cast<int>(h)};
  return orientation_.transpose ? PictureSize{size.height, size.width} : size;
}

void Painter::paint(const AVFrame& frame, PictureSize size, uint8_t* rgb) {
  const PictureSize flat = orientation_.transpose ? PictureSize{size.height, size.width} : size;
  const Format format = format_of(frame);
  const int coefficients = coefficients_of(frame);
  const std::vector<int> key = {frame.width,  frame.height, format.format, format.full_range ? 1 : 0,
                                coefficients, flat.width,   flat.height};
  if (!scaler_ || key != scaler_key_) {
    constexpr int kFlags = SWS_BICUBIC | SWS_ACCURATE_RND | SWS_FULL_CHR_H_INT | SWS_BITEXACT;
    scaler_.reset(sws_getContext(frame.width, frame.height, format.format, flat.width, flat.height, AV_PIX_FMT_RGB24,
                                 kFlags, nullptr, nullptr, nullptr));
    if (!scaler_) throw RuntimeFailure("pixels of this kind cannot be converted");
    sws_setColorspaceDetails(scaler_.get(), sws_getCoefficients(coefficients), format.full_range ? 1 : 0,
                             sws_getCoefficients(SWS_CS_DEFAULT), 1, 0, 1 << 16, 1 << 16);
    scaler_key_ = key;
  }
  const int stride = (3 * flat.width + kRowAlignment - 1) / kRowAlignment * kRowAlignment;
  rows_.resize(static_cast<size_t>(stride) * flat.height + kRowAlignment);
  std::array<uint8_t*, 4> planes = {rows_.data(), nullptr, nullptr, nullptr};
  const std::array<int, 4> strides = {stride, 0, 0, 0};
  if (sws_scale(scaler_.get(), frame.data, frame.linesize, 0, frame.height, planes.data(), strides.data()) < 0) {
    throw RuntimeFailure("pixels of this kind cannot be converted");
  }
  for (int y = 0; y < flat.height; ++y) {
    const uint8_t* row = rows_.data() + static_cast<size_t>(y) * stride;
    for (int x = 0; x < flat.width; ++x) {
      int to_x = orientation_.transpose ? y : x, to_y = orientation_.transpose ? x : y;
      if (orientation_.mirror_x) to_x = size.width - 1 - to_x;
      if (orientation_.mirror_y) to_y = size.height - 1 - to_y;
      std::copy_n(row + 3 * x, 3, rgb + 3 * (static_cast<size_t>(to_y) * size.width + to_x));
    }
  }
}

}  // namespace unigrpo::media
