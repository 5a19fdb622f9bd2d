#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "media/clip.h"

/// What is seen in frames, by their pixels alone. Times are seconds from the first frame, places pixels.
namespace unigrpo::media::detect {

/// Centroids of one coloured thing, a place a frame; weight 0 where it is not seen.
struct Track {
  struct Place {
    double x = 0, y = 0, weight = 0;
  };
  std::vector<Place> places;
};

/// Coloured (not grey) things that stand in columns of their own, from left to right.
std::vector<Track> track_objects(const Frames& frames);

/// When the track's fall turns into a rise: the crossing of the lines fitted before and after. Empty `reason`: seen.
struct Contact {
  double time_s = 0;
  std::string reason;
};
Contact find_contact(const Track& track, Rational fps);

/// Height in pixels of the dark area around the middle, a frame.
std::vector<double> mouth_heights(const Frames& frames);
/// Times of the highest openings of such a series, to a fraction of a frame.
std::vector<double> find_openings(const std::vector<double>& heights, Rational fps);

/// How the camera moves, the mean over the clip four frames at a time, coloured things masked: what is shown shifts by
/// -dx, -dy pixels a second and grows by `zoom` e-folds a second around the middle. Iterated least squares on the
/// brightness gradient. `residual`: mean square of what this leaves of the brightness differences, 0..1 of them.
struct CameraMotion {
  double dx = 0, dy = 0, zoom = 0;
  double residual = 1;
};
CameraMotion find_camera(const Frames& frames, Rational fps);

}  // namespace unigrpo::media::detect
