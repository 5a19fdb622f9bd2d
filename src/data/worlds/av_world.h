#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/rng.h"
#include "data/worlds/shapes_world.h"
#include "media/clip.h"

/// The embedded world of picture and sound: clips of a second whose events are known exactly, and prompts for them.
namespace unigrpo::data::av {

inline constexpr int kSide = 32;    // pixels
inline constexpr int kFrames = 17;  // 1 + 8 n, so that each temporal ratio of 2, 4 and 8 fits
inline constexpr int kFps = 16;
inline constexpr int kRate = 8000;  // samples a second, two channels
inline constexpr int kSamples = 8500;
inline constexpr double kFloorY = 29;     // where falling objects turn
inline constexpr double kSideLevel = 12;  // dB between the channels of what stands at a side

enum class SceneKind { bounce, mouth, camera, two_events, side };
inline constexpr std::array kSceneNames = {"bounce", "mouth", "camera", "two_events", "side"};
enum class Source { tone, bell, drum, syllable, hum };
inline constexpr std::array kSourceNames = {"tone", "bell", "drum", "syllable", "hum"};
inline constexpr std::array kPitchNames = {"C",       "C sharp", "D",       "D sharp", "E",       "F",
                                           "F sharp", "G",       "G sharp", "A",       "A sharp", "B"};
inline constexpr std::array kVowelNames = {"a", "i", "u"};
enum class Move { still, left, right, up, down, zoom_in, zoom_out };

/// One thing that is seen and heard. In data that are wrong on purpose the two times differ.
struct Event {
  Source source = Source::tone;
  double time_s = 0;        // seen: contact with the floor, the mouth's widest opening
  double sound_time_s = 0;  // heard: onset, the burst's peak
  int pitch = -1;           // class 0..11 from C on; -1: none

  bool operator==(const Event&) const = default;
};

/// How the camera moves: pixels a second to the right and down (what it shows goes the other way), and the growth of
/// what it shows, in e-folds a second.
struct Camera {
  double dx = 0, dy = 0, zoom = 0;
  bool operator==(const Camera&) const = default;
};

struct Body {
  shapes::Shape shape = shapes::Shape::circle;
  shapes::Color color = shapes::Color::red;
  double x = 16, radius = 5;
  double speed_in = 20, speed_out = 16;  // pixels a second before and after the floor
  bool operator==(const Body&) const = default;
};

struct Scene {
  SceneKind kind = SceneKind::bounce;
  std::vector<Body> bodies;   // none for a mouth; two for two events, in the order of the events
  std::vector<Event> events;  // in the order of what is seen
  Move move = Move::still;
  bool quick = false;
  Camera camera = {};
  int vowel = 0;
  bool silent = false;
  uint64_t texture = 0;  // of the camera's backdrop, and of noise in sounds

  bool operator==(const Scene&) const = default;
};

/// Scenes that are for testing alone: pairs of colour and pitch, of camera move and object. Empty: the scene has no
/// such pair and is for every part.
std::optional<bool> is_held_out(const Scene& scene);

/// A scene for training or for testing, one in ten silent.
Scene draw_scene(bool for_test, RandomStream& stream);

/// What SFT is to learn from is imperfect, so that there is something to improve: sound off by 80 ms (standard
/// deviation) in half of the clips, another pitch in 20%, sounds in the other order in 25%, the camera's speed off by
/// up to 50%. The asked scene stays what the prompt says.
Scene spoiled(const Scene& asked, RandomStream& stream);

std::string prompt_of(const Scene& scene);

/// Which scene of the world: a function of these alone. Part 0 is for training, 1 for validation, 2 for testing.
struct Draw {
  uint64_t seed = 0, part = 0, index = 0;
};
Scene scene_of(const Draw& draw);

/// The prompt row of a scene, a line of JSON with its exact truth in `metadata.av`, whose `draw` says where the scene
/// is from.
std::string row_of(const Scene& scene, const std::string& id, const std::optional<Draw>& draw = std::nullopt);

/// The scene that a row of the world is about, whose prompt is `prompt`. `metadata_json`: the row's, with
/// `metadata.av.draw`. Throws BadInput for any other row.
Scene scene_of_row(const std::string& metadata_json, const std::string& prompt);

/// Frames [17, 32, 32, 3], supersampled 4 x 4, and sound [2, 8500], rounded to 16 bits. Same scene, same bytes.
media::Clip render(const Scene& scene);

/// Frequency of a pitch class in the octave from middle C on, in Hz.
double frequency_of(int pitch);

}  // namespace unigrpo::data::av
