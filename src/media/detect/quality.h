#pragma once

#include "media/clip.h"

/// What makes a clip unfit to learn from, in numbers. Brightness is 0..255.
namespace unigrpo::media::detect {

struct PictureQuality {
  double brightness = 0;    // mean
  double bright_end = 0;    // what 95% of all pixels are below
  double edge_density = 0;  // share of pixels at strong edges: text, screens
  double moving = 0;        // largest share of pixels that change within a quarter of a second
  double motion = 0;        // mean change of brightness within a quarter of a second, 0..1
  double repeated = 0;      // share of frames that show the one before again, where others move: slow motion
  struct Box {              // what black bars leave, as shares of the picture
    double x = 0, y = 0, width = 1, height = 1;
  } inside;
};
PictureQuality look_at_quality(const Frames& frames, Rational fps);

struct SoundQuality {
  double level_db = 0;            // root mean square, dBFS; -200: nothing
  double channel_db[2] = {0, 0};  // of each channel
  double full_scale = 0;          // share of samples at full scale
  double clipped = 0;             // their share of those above half of it; 0.3 of a sine that just reaches it
};
SoundQuality listen_to_quality(const Sound& sound);

}  // namespace unigrpo::media::detect
