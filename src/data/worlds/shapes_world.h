#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "base/rng.h"
#include "data/prompt.h"
#include "io/image.h"

/// The embedded world: coloured shapes on a light background, prompts in GenEval's schema and
/// wording.
namespace unigrpo::data::shapes {

enum class Shape { circle, square, triangle, star };
enum class Color { red, green, blue, yellow, purple, orange };
enum class Relation { left_of, right_of, above, below };

inline constexpr std::array kShapeNames = {"circle", "square", "triangle", "star"};
inline constexpr std::array kColorNames = {"red", "green", "blue", "yellow", "purple", "orange"};
inline constexpr std::array kRelationNames = {"left of", "right of", "above", "below"};
inline constexpr std::array<std::array<uint8_t, 3>, 6> kColorRgb = {
    {{220, 40, 40}, {40, 160, 60}, {45, 80, 220}, {240, 210, 40}, {140, 60, 180}, {245, 140, 30}}};
inline constexpr std::array<uint8_t, 3> kBackgroundRgb = {250, 250, 250};
inline constexpr int kImageSize = 64;

/// One drawn object. Centre and radius in pixels of a 64x64 image; the shape fits in the circle of
/// that radius.
struct Object {
  Shape shape = Shape::circle;
  Color color = Color::red;
  double x = 0, y = 0, radius = 0;
  bool operator==(const Object&) const = default;
};

using Scene = std::vector<Object>;

/// In pixels; right and bottom exclusive.
struct Box {
  double left = 0, top = 0, right = 0, bottom = 0;

  double width() const { return right - left; }
  double height() const { return bottom - top; }
  double center_x() const { return (left + right) / 2; }
  double center_y() const { return (top + bottom) / 2; }
};

/// The smallest box around the drawn shape. Its centre is the object's only for circles and
/// squares.
Box bounds(const Object& object);

/// A prompt of the world: its JSONL line (GenEval schema), tag and text.
struct WorldPrompt {
  std::string tag;   // single_object, two_object, counting, colors, position, color_attr, compositional
  std::string text;  // "two red circles left of a blue square"
  std::string json;  // the line as it stands in a prompt file
  uint64_t hash;     // FNV-1a-64 of the text
};

/// A row of a prompt file as such a line: its metadata with the text beside it.
std::string world_line(const Prompt& prompt);

struct WorldSplit {
  std::vector<WorldPrompt> train, validation, test;
};

/// Every prompt of the world, split as docs/EXPERIMENTS.md says: within each tag, sorted by
/// FNV-1a-64 of the text, the first 20% (at least 1) go to test, the next 10% to validation, the
/// rest to train. compositional is the large tag; it is thinned deterministically to
/// `max_compositional` prompts before the split (hash order).
WorldSplit make_split(int64_t max_compositional = 2000);

/// How far from right the SFT data is made on purpose: probabilities a sample.
struct NoiseConfig {
  double plan_noise = 0.0;   // the plan states a wrong count, colour or side
  double scene_noise = 0.0;  // the image departs from the plan: one object missing / extra / recoloured / misplaced
};

/// One SFT example: the prompt, its plan text and a scene that fits the plan (but for the noise
/// drawn).
struct Example {
  std::string prompt;
  std::string plan;         // "<think> one blue square on the right; two red circles on the left </think>"
  std::string oracle_plan;  // the plan without noise, for evaluation with the plan forced
  Scene scene;
};

/// Draws an example for a prompt line (`json` of a WorldPrompt). What the prompt leaves open
/// (colours, classes' places) is drawn from `stream` and stated in the plan. Throws BadInput for a
/// line outside this world.
Example draw_example(std::string_view prompt_json, const NoiseConfig& noise, RandomStream& stream);

/// Draws a scene that fits a prompt line exactly (no noise): for tests of the detector.
Scene draw_scene(std::string_view prompt_json, RandomStream& stream);

/// Anti-aliased rendering (4x4 supersampling) of a scene, kImageSize square.
Image render(const Scene& scene);

/// Writes train.jsonl, validation.jsonl, test.jsonl to a folder.
void write_world(const std::filesystem::path& folder, const WorldSplit& split);

}  // namespace unigrpo::data::shapes
