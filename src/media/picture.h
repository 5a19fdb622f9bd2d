#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "media/libav.h"

struct AVStream;

namespace unigrpo::media {

/// How a stream's pictures are shown: turned and mirrored by multiples of 90 degrees.
struct Orientation {
  bool transpose = false;  // rows become columns, before the mirroring
  bool mirror_x = false;
  bool mirror_y = false;
  int degrees = 0;         // clockwise, of the turn alone
  bool odd_angle = false;  // the file asks for another angle, which is left out
};
Orientation orientation_of(const AVStream& stream);

struct PictureSize {
  int width = 0;
  int height = 0;
};

/// Decoded pictures to RGB: colours by the stream's tags, pixels made square, made smaller, turned.
class Painter {
 public:
  Painter(Orientation orientation, int max_side) : orientation_(orientation), max_side_(max_side) {}

  /// Of what paint() gives for pictures coded so; {0, 0} where the pixels' shape makes a side of none or too many.
  PictureSize size_for(int width, int height, double sample_aspect) const;
  /// RGB rows [height, width, 3] of `size_for` into `rgb`. Throws std::runtime_error where libav refuses.
  void paint(const AVFrame& frame, PictureSize size, uint8_t* rgb);

 private:
  Orientation orientation_;
  int max_side_;
  Owned<SwsContext> scaler_;
  std::vector<int> scaler_key_;
  std::vector<uint8_t> rows_;
};

}  // namespace unigrpo::media
