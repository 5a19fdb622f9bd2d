#pragma once

#include <vector>

#include "media/clip.h"

/// When things happen in pictures and when in sound, as curves of one value every 5 ms, and how far apart these are.
namespace unigrpo::media::detect {

inline constexpr double kRhythmHop_s = 0.005;

/// Motion by its direction, after the "directogram" of Davis and Agrawala 2018 ("Visual rhythm and beat"): the optical
/// flow of all pixels in 8 directions a pair of frames. `curve`: how much that changes from pair to pair, which is
/// large where something hits or turns; where motion comes and goes (`pulsed`: a mouth that speaks), how much moves.
/// Small frames are enough (48 pixels).
struct SeenRhythm {
  bool pulsed = false;
  bool eventful = false;  // something stands out of it
  std::vector<double> curve;
};
SeenRhythm see_rhythm(const Frames& frames, Rational fps);

/// `strikes`: how fast the level rises; `swells`: how fast it changes at all. 8,000 samples a second are enough.
struct HeardRhythm {
  bool eventful = false;  // a sound begins in it
  std::vector<double> strikes, swells;
};
HeardRhythm hear_rhythm(const Sound& sound);

/// The highest place of the correlation of what is seen with what is heard (strikes; swells where it is pulsed) over
/// +-1 s.
struct RhythmLag {
  double heard_after_s = 0;  // what is seen; negative: before it
  double peak = 0;           // -1..1
  double second = 0;         // the highest that is more than 100 ms away from it
};
RhythmLag compare_rhythms(const SeenRhythm& seen, const HeardRhythm& heard);

}  // namespace unigrpo::media::detect
