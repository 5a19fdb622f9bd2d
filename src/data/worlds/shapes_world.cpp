#include "data/worlds/shapes_world.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numbers>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/hash.h"
#include "data/worlds/shapes_draw.h"
#include "io/atomic_file.h"
#include "io/json.h"

namespace unigrpo::data::shapes {
namespace {

constexpr int kMaxCount = 4;          // of one group
constexpr int kMaxObjects = 5;        // of a scene; four asked for and one too many
constexpr double kBorder = 2;         // pixels between an object's circle and the image's edge
constexpr double kGap = 2;            // pixels between two objects' circles
constexpr double kSideGap = 2;        // pixels between an object's centre and the image's middle line
constexpr double kRelationMin = 0.6;  // GenEval asks for 0.5; the rest is the clear margin

std::string relation_name(Relation relation) { return kRelationNames[static_cast<size_t>(relation)]; }

Relation opposite(Relation relation) {
  switch (relation) {
    case Relation::left_of:
      return Relation::right_of;
    case Relation::right_of:
      return Relation::left_of;
    case Relation::above:
      return Relation::below;
    case Relation::below:
      return Relation::above;
  }
  return relation;
}

/// Where a group stands that is `relation` the other one.
const char* place_name(Relation relation) {
  switch (relation) {
    case Relation::left_of:
      return "on the left";
    case Relation::right_of:
      return "on the right";
    case Relation::above:
      return "at the top";
    case Relation::below:
      return "at the bottom";
  }
  return "";
}

// ------------------------------------------------------------------------------------------------
// Prompts

struct PromptGroup {
  Shape shape = Shape::circle;
  int count = 1;
  std::optional<Color> color = {};
};

/// "a red circle", "three circles", "an orange star"
std::string group_text(const PromptGroup& group) {
  std::string words = group.color ? color_name(*group.color) + " " : "";
  words += shape_name(group.shape);
  if (group.count > 1) return fmt::format("{} {}s", kNumberNames[static_cast<size_t>(group.count)], words);
  const bool vowel = std::string_view("aeiou").find(words.front()) != std::string_view::npos;
  return fmt::format("{} {}", vowel ? "an" : "a", words);
}

std::string include_json(const PromptGroup& group, std::optional<Relation> relation = {}) {
  std::string text = fmt::format(R"({{"class": "{}", "count": {})", shape_name(group.shape), group.count);
  if (group.color) text += fmt::format(R"(, "color": "{}")", color_name(*group.color));
  if (relation) text += fmt::format(R"(, "position": ["{}", 0])", relation_name(*relation));
  return text + "}";
}

WorldPrompt make_prompt(std::string tag, std::string text, const std::string& include,
                        const std::string& exclude = "") {
  std::string json = fmt::format(R"({{"tag": "{}", "include": [{}])", tag, include);
  if (!exclude.empty()) json += fmt::format(R"(, "exclude": [{}])", exclude);
  json += fmt::format(R"(, "prompt": "{}"}})", text);
  const uint64_t hash = fnv1a64(text);
  return {.tag = std::move(tag), .text = std::move(text), .json = std::move(json), .hash = hash};
}

WorldPrompt one_group_prompt(const std::string& tag, const PromptGroup& group) {
  const std::string exclude =
      tag == "counting" ? fmt::format(R"({{"class": "{}", "count": {}}})", shape_name(group.shape), group.count + 1)
                        : "";
  return make_prompt(tag, group_text(group), include_json(group), exclude);
}

WorldPrompt pair_prompt(const std::string& tag, const PromptGroup& first, const PromptGroup& second) {
  return make_prompt(tag, group_text(first) + " and " + group_text(second),
                     include_json(first) + ", " + include_json(second));
}

/// The reference stands first in `include`, last in the text.
WorldPrompt relation_prompt(const std::string& tag, const PromptGroup& placed, Relation relation,
                            const PromptGroup& reference) {
  return make_prompt(tag, fmt::format("{} {} {}", group_text(placed), relation_name(relation), group_text(reference)),
                     include_json(reference) + ", " + include_json(placed, relation));
}

template <typename Use>
void for_each_shape_pair(const Use& use) {
  for (size_t a = 0; a < kShapeNames.size(); ++a) {
    for (size_t b = 0; b < kShapeNames.size(); ++b) {
      if (a != b) use(static_cast<Shape>(a), static_cast<Shape>(b));
    }
  }
}

template <typename Use>
void for_each_color(const Use& use) {
  for (size_t c = 0; c < kColorNames.size(); ++c) use(static_cast<Color>(c));
}

template <typename Use>
void for_each_relation(const Use& use) {
  for (size_t r = 0; r < kRelationNames.size(); ++r) use(static_cast<Relation>(r));
}

std::vector<WorldPrompt> prompts_of_tag(const std::string& tag) {
  std::vector<WorldPrompt> prompts;
  if (tag == "two_object") {
    for_each_shape_pair([&](Shape a, Shape b) { prompts.push_back(pair_prompt(tag, {.shape = a}, {.shape = b})); });
  } else if (tag == "position") {
    for_each_shape_pair([&](Shape a, Shape b) {
      for_each_relation([&](Relation r) { prompts.push_back(relation_prompt(tag, {.shape = a}, r, {.shape = b})); });
    });
  } else if (tag == "color_attr") {  // as in GenEval the two colours differ
    for_each_shape_pair([&](Shape a, Shape b) {
      for_each_color([&](Color ca) {
        for_each_color([&](Color cb) {
          if (ca != cb) prompts.push_back(pair_prompt(tag, {a, 1, ca}, {b, 1, cb}));
        });
      });
    });
  } else if (tag == "compositional") {
    for_each_shape_pair([&](Shape a, Shape b) {
      for_each_color([&](Color ca) {
        for_each_color([&](Color cb) {
          for_each_relation([&](Relation r) {
            for (int count = 1; count < kMaxCount; ++count) {  // four objects at most, the reference included
              prompts.push_back(relation_prompt(tag, {a, count, ca}, r, {b, 1, cb}));
            }
          });
        });
      });
    });
  } else {
    for (size_t s = 0; s < kShapeNames.size(); ++s) {
      const auto shape = static_cast<Shape>(s);
      if (tag == "single_object") prompts.push_back(one_group_prompt(tag, {.shape = shape}));
      if (tag == "counting") {
        for (int count = 2; count <= kMaxCount; ++count) {
          prompts.push_back(one_group_prompt(tag, {.shape = shape, .count = count}));
        }
      }
      if (tag == "colors") {
        for_each_color([&](Color c) { prompts.push_back(one_group_prompt(tag, {shape, 1, c})); });
      }
    }
  }
  return prompts;
}

// ------------------------------------------------------------------------------------------------
// Plans

struct Group {
  Shape shape = Shape::circle;
  Color color = Color::red;
  int count = 1;
};

/// What a plan states: one or two groups, and where the second stands seen from the first.
struct Plan {
  std::vector<Group> groups;
  Relation relation = Relation::left_of;  // of groups[1] to groups[0]; without meaning for one group

  Relation side(size_t group) const { return group == 1 ? relation : opposite(relation); }
  int num_objects() const {
    int total = 0;
    for (const Group& group : groups) total += group.count;
    return total;
  }
};

/// Which of a plan's facts the prompt itself fixes (the classes always).
struct FixedFacts {
  bool counts = false;
  bool relation = false;
  std::vector<size_t> colored;  // groups whose colour the prompt gives
};

std::string plan_text(const Plan& plan) {
  std::string text = "<think> ";
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    const Group& group = plan.groups[g];
    if (g > 0) text += "; ";
    text += fmt::format("{} {} {}{}", kNumberNames[static_cast<size_t>(group.count)], color_name(group.color),
                        shape_name(group.shape), group.count > 1 ? "s" : "");
    if (plan.groups.size() > 1) text += fmt::format(" {}", place_name(plan.side(g)));
  }
  return text + " </think>";
}

template <typename E, size_t N>
E parse_name(const std::array<const char*, N>& names, const std::string& name, std::string_view what) {
  for (size_t i = 0; i < N; ++i) {
    if (name == names[i]) return static_cast<E>(i);
  }
  throw BadInput("shapes world: {} '{}' is not of this world", what, name);
}

struct ParsedPrompt {
  std::string text;
  Plan plan;  // open facts still at their defaults
  FixedFacts fixed;
};

ParsedPrompt parse_prompt(std::string_view line) {
  const auto require = [](bool condition, std::string_view what) {
    if (!condition) throw BadInput("shapes world: {}", what);
  };
  const nlohmann::json json = io::parse_json(line, "shapes world prompt");
  require(json.is_object(), "a prompt line must be a JSON object");
  require(json.contains("prompt") && json["prompt"].is_string(), "'prompt' must be a string");
  require(
      json.contains("include") && json["include"].is_array() && !json["include"].empty() && json["include"].size() <= 2,
      "'include' must list one or two groups");

  ParsedPrompt parsed;
  parsed.text = json["prompt"].get<std::string>();
  parsed.fixed.counts = json.contains("tag") && (json["tag"] == "counting" || json["tag"] == "compositional");
  for (const auto& entry : json["include"]) {
    require(entry.is_object() && entry.contains("class") && entry["class"].is_string(), "'class' must be a string");
    Group group;
    group.shape = parse_name<Shape>(kShapeNames, entry["class"].get<std::string>(), "class");
    require(entry.contains("count") && entry["count"].is_number_integer() && entry["count"] >= 1 &&
                entry["count"] <= kMaxCount,
            "'count' must be 1..4");
    group.count = entry["count"].get<int>();
    if (group.count > 1) parsed.fixed.counts = true;
    if (entry.contains("color")) {
      require(entry["color"].is_string(), "'color' must be a string");
      group.color = parse_name<Color>(kColorNames, entry["color"].get<std::string>(), "color");
      parsed.fixed.colored.push_back(parsed.plan.groups.size());
    }
    if (entry.contains("position")) {
      const auto& position = entry["position"];
      require(position.is_array() && position.size() == 2 && position[0].is_string() && position[1] == 0 &&
                  parsed.plan.groups.size() == 1,
              "'position' belongs to the second group and must be [relation, 0]");
      parsed.plan.relation = parse_name<Relation>(kRelationNames, position[0].get<std::string>(), "relation");
      parsed.fixed.relation = true;
    }
    parsed.plan.groups.push_back(group);
  }
  require(parsed.plan.num_objects() <= kMaxObjects, "more than five objects");
  require(parsed.plan.groups.size() == 1 || parsed.plan.groups[0].shape != parsed.plan.groups[1].shape,
          "the two groups must differ in class");
  return parsed;
}

void draw_open_facts(ParsedPrompt& parsed, RandomStream& stream) {
  for (size_t g = 0; g < parsed.plan.groups.size(); ++g) {
    const auto& colored = parsed.fixed.colored;
    if (std::find(colored.begin(), colored.end(), g) == colored.end()) {
      parsed.plan.groups[g].color = draw_enum<Color>(kColorNames, stream);
    }
  }
  if (parsed.plan.groups.size() == 2 && !parsed.fixed.relation) {
    parsed.plan.relation = draw_enum<Relation>(kRelationNames, stream);
  }
}

/// States one of the facts that the prompt fixes wrong.
void spoil_plan(Plan& plan, const FixedFacts& fixed, RandomStream& stream) {
  enum class Fact { shape, count, color, side };
  std::vector<Fact> facts = {Fact::shape};
  if (fixed.counts) facts.push_back(Fact::count);
  if (!fixed.colored.empty()) facts.push_back(Fact::color);
  if (fixed.relation) facts.push_back(Fact::side);
  const size_t any_group = static_cast<size_t>(stream.below(plan.groups.size()));
  switch (draw_item(facts, stream)) {
    case Fact::shape: {  // the two groups keep differing in class
      const Shape first = plan.groups.front().shape, last = plan.groups.back().shape;
      plan.groups[any_group].shape = draw_other<Shape>(kShapeNames, {first, last}, stream);
      break;
    }
    case Fact::count: {
      Group& group = plan.groups[any_group];
      std::vector<int> counts;
      if (group.count > 1) counts.push_back(group.count - 1);
      if (group.count < kMaxCount && plan.num_objects() < kMaxObjects) counts.push_back(group.count + 1);
      group.count = draw_item(counts, stream);
      break;
    }
    case Fact::color: {
      Group& group = plan.groups[draw_item(fixed.colored, stream)];
      group.color = draw_other<Color>(kColorNames, {group.color}, stream);
      break;
    }
    case Fact::side:
      plan.relation = opposite(plan.relation);
      break;
  }
}

// ------------------------------------------------------------------------------------------------
// Scenes

/// GenEval's measure of `a` standing in `relation` to `b`: the component of the offset between the
/// box centres, less a tenth of both sizes, over the length of the offset. True there from 0.5 on.
double relation_strength(const Box& a, const Box& b, Relation relation) {
  const double dx = a.center_x() - b.center_x(), dy = a.center_y() - b.center_y();
  const bool horizontal = relation == Relation::left_of || relation == Relation::right_of;
  const bool negative = relation == Relation::left_of || relation == Relation::above;
  const double offset = (horizontal ? dx : dy) * (negative ? -1 : 1);
  const double sizes = horizontal ? a.width() + b.width() : a.height() + b.height();
  return (offset - 0.1 * sizes) / std::max(std::hypot(dx, dy), 1e-9);
}

struct Range {
  double low = 0, high = 0;
};

Range radius_range(int num_objects) {
  switch (num_objects) {
    case 1:
      return {8, 13};
    case 2:
      return {7, 12};
    case 3:
      return {7, 10};
    case 4:
      return {6.5, 9};
    default:
      return {6, 8};
  }
}

/// The range of a centre's coordinate. A group that stands somewhere keeps to its half of the
/// image.
Range center_range(double radius, bool bounded, bool lower_half) {
  const double middle = kImageSize / 2.0;
  Range range = {kBorder + radius, kImageSize - kBorder - radius};
  if (bounded && lower_half) range.high = middle - kSideGap;
  if (bounded && !lower_half) range.low = middle + kSideGap;
  return range;
}

bool fits(const Object& object, const Scene& scene, size_t num_first, bool second_group, Relation relation) {
  for (size_t i = 0; i < scene.size(); ++i) {
    const Object& other = scene[i];
    if (std::hypot(object.x - other.x, object.y - other.y) < object.radius + other.radius + kGap) return false;
    if (second_group && i < num_first && relation_strength(bounds(object), bounds(other), relation) < kRelationMin) {
      return false;
    }
  }
  return true;
}

/// One try; empty where an object found no place.
std::optional<Scene> try_place(const Plan& plan, double scale, RandomStream& stream) {
  const Range radii = radius_range(plan.num_objects());
  Scene scene;
  for (size_t g = 0; g < plan.groups.size(); ++g) {
    const Group& group = plan.groups[g];
    const Relation side = plan.side(g);
    const bool sided = plan.groups.size() > 1;
    const bool horizontal = side == Relation::left_of || side == Relation::right_of;
    const bool lower_half = side == Relation::left_of || side == Relation::above;
    const size_t num_first = static_cast<size_t>(plan.groups.front().count);
    for (int i = 0; i < group.count; ++i) {
      Object object = {.shape = group.shape, .color = group.color};
      object.radius = scale * stream.uniform(radii.low, radii.high);
      const Range x_range = center_range(object.radius, sided && horizontal, lower_half);
      const Range y_range = center_range(object.radius, sided && !horizontal, lower_half);
      bool placed = false;
      for (int attempt = 0; attempt < 20 && !placed; ++attempt) {
        object.x = stream.uniform(x_range.low, x_range.high);
        object.y = stream.uniform(y_range.low, y_range.high);
        placed = fits(object, scene, num_first, g == 1, plan.relation);
      }
      if (!placed) return std::nullopt;
      scene.push_back(object);
    }
  }
  return scene;
}

Scene place(const Plan& plan, RandomStream& stream) {
  // Crowded scenes shrink step by step until they fit; five objects of radius 3 always do.
  for (double scale = 1.0; scale > 0.5; scale *= 0.93) {
    for (int attempt = 0; attempt < 40; ++attempt) {
      if (auto scene = try_place(plan, scale, stream)) return *scene;
    }
  }
  throw RuntimeFailure("shapes world: no room for {}", plan_text(plan));
}

/// A scene that departs from the plan in one point.
Scene place_wrongly(Plan plan, RandomStream& stream) {
  enum class Fault { missing, extra, recolored, reshaped, misplaced };
  std::vector<Fault> faults = {Fault::recolored, Fault::reshaped};
  if (plan.num_objects() > 1) faults.push_back(Fault::missing);
  if (plan.num_objects() < kMaxObjects) faults.push_back(Fault::extra);
  if (plan.groups.size() > 1) faults.push_back(Fault::misplaced);
  const Fault fault = draw_item(faults, stream);
  Group& group = plan.groups[static_cast<size_t>(stream.below(plan.groups.size()))];
  if (fault == Fault::extra) ++group.count;
  if (fault == Fault::misplaced) plan.relation = opposite(plan.relation);
  Scene scene = place(plan, stream);
  const size_t index = static_cast<size_t>(stream.below(scene.size()));
  Object& object = scene[index];
  if (fault == Fault::missing) scene.erase(scene.begin() + static_cast<std::ptrdiff_t>(index));
  if (fault == Fault::recolored) object.color = draw_other<Color>(kColorNames, {object.color}, stream);
  if (fault == Fault::reshaped) object.shape = draw_other<Shape>(kShapeNames, {object.shape}, stream);
  return scene;
}

// ------------------------------------------------------------------------------------------------
// Rendering

constexpr double kSquareHalf = std::numbers::sqrt2 / 2;  // of the radius: corners on the circle

struct StarEdges {
  std::array<double, 5> normal_x{}, normal_y{};
  double inner = 0;  // distance of the five lines from the centre, in radii
};

/// The pentagram's five lines. The line nearest to each tip crosses it at its foot; one tip is up.
const StarEdges& star_edges() {
  static const StarEdges edges = [] {
    StarEdges result;
    for (size_t i = 0; i < 5; ++i) {
      const double angle = -std::numbers::pi / 2 + 2 * std::numbers::pi * static_cast<double>(i) / 5;
      result.normal_x[i] = std::cos(angle);
      result.normal_y[i] = std::sin(angle);  // y down; the first line lies below the upper tip
    }
    result.inner = std::cos(2 * std::numbers::pi / 5);
    return result;
  }();
  return edges;
}

/// (u, v): offset from the centre in radii, v down.
bool inside(Shape shape, double u, double v) {
  switch (shape) {
    case Shape::circle:
      return u * u + v * v <= 1;
    case Shape::square:
      return std::abs(u) <= kSquareHalf && std::abs(v) <= kSquareHalf;
    case Shape::triangle:
      return v <= 0.5 && std::numbers::sqrt3 * std::abs(u) <= v + 1;
    case Shape::star: {
      // A point of the pentagram is beyond one of its five lines (a tip) or none (the core).
      const StarEdges& edges = star_edges();
      int beyond = 0;
      for (size_t i = 0; i < 5; ++i) beyond += u * edges.normal_x[i] + v * edges.normal_y[i] > edges.inner;
      return beyond <= 1;
    }
  }
  return false;
}

/// Share of the pixel that the object covers, in sixteenths.
int coverage(const Object& object, int px, int py) {
  constexpr int kSamples = 4;
  int covered = 0;
  for (int sy = 0; sy < kSamples; ++sy) {
    const double v = (py + (sy + 0.5) / kSamples - object.y) / object.radius;
    for (int sx = 0; sx < kSamples; ++sx) {
      covered += inside(object.shape, (px + (sx + 0.5) / kSamples - object.x) / object.radius, v);
    }
  }
  return covered;
}

}  // namespace

Box bounds(const Object& object) {
  const double r = object.radius;
  switch (object.shape) {
    case Shape::circle:
      return {object.x - r, object.y - r, object.x + r, object.y + r};
    case Shape::square: {
      const double half = kSquareHalf * r;
      return {object.x - half, object.y - half, object.x + half, object.y + half};
    }
    case Shape::triangle: {
      const double half = std::numbers::sqrt3 / 2 * r;
      return {object.x - half, object.y - r, object.x + half, object.y + r / 2};
    }
    case Shape::star: {
      const double half = r * std::sin(2 * std::numbers::pi / 5);
      return {object.x - half, object.y - r, object.x + half, object.y + r * std::cos(std::numbers::pi / 5)};
    }
  }
  return {};
}

std::string world_line(const Prompt& prompt) {
  auto line = nlohmann::ordered_json::parse(prompt.metadata_json);
  line["prompt"] = prompt.text;
  return line.dump();
}

WorldSplit make_split(int64_t max_compositional) {
  WorldSplit split;
  for (const char* tag :
       {"single_object", "two_object", "counting", "colors", "position", "color_attr", "compositional"}) {
    std::vector<WorldPrompt> prompts = prompts_of_tag(tag);
    std::sort(prompts.begin(), prompts.end(), [](const WorldPrompt& a, const WorldPrompt& b) {
      return std::tie(a.hash, a.text) < std::tie(b.hash, b.text);
    });
    if (std::string_view(tag) == "compositional" && static_cast<int64_t>(prompts.size()) > max_compositional) {
      prompts.resize(static_cast<size_t>(std::max<int64_t>(max_compositional, 0)));
    }
    const size_t num_test = std::min(std::max<size_t>(prompts.size() / 5, 1), prompts.size());
    const size_t num_validation = std::min(prompts.size() / 10, prompts.size() - num_test);
    for (size_t i = 0; i < prompts.size(); ++i) {
      auto& part = i < num_test ? split.test : i < num_test + num_validation ? split.validation : split.train;
      part.push_back(std::move(prompts[i]));
    }
  }
  return split;
}

Example draw_example(std::string_view prompt_json, const NoiseConfig& noise, RandomStream& stream) {
  ParsedPrompt parsed = parse_prompt(prompt_json);
  draw_open_facts(parsed, stream);
  Example example = {.prompt = parsed.text, .plan = {}, .oracle_plan = plan_text(parsed.plan), .scene = {}};
  if (stream.chance(noise.plan_noise)) spoil_plan(parsed.plan, parsed.fixed, stream);
  example.plan = plan_text(parsed.plan);
  example.scene = stream.chance(noise.scene_noise) ? place_wrongly(parsed.plan, stream) : place(parsed.plan, stream);
  return example;
}

Scene draw_scene(std::string_view prompt_json, RandomStream& stream) {
  return draw_example(prompt_json, {}, stream).scene;
}

Image render(const Scene& scene) {
  Image image = {.width = kImageSize, .height = kImageSize, .pixels = {}};
  image.pixels.resize(size_t{3} * kImageSize * kImageSize);
  for (size_t i = 0; i < image.pixels.size(); ++i) image.pixels[i] = kBackgroundRgb[i % 3];
  for (const Object& object : scene) {
    const Box box = bounds(object);
    const auto clamp_pixel = [](double value) { return static_cast<int>(std::clamp<double>(value, 0, kImageSize)); };
    const auto& rgb = kColorRgb[static_cast<size_t>(object.color)];
    for (int y = clamp_pixel(std::floor(box.top)); y < clamp_pixel(std::ceil(box.bottom)); ++y) {
      for (int x = clamp_pixel(std::floor(box.left)); x < clamp_pixel(std::ceil(box.right)); ++x) {
        const int covered = coverage(object, x, y);
        if (covered == 0) continue;
        uint8_t* pixel = image.at(x, y);
        for (size_t c = 0; c < 3; ++c) {
          pixel[c] = static_cast<uint8_t>((covered * rgb[c] + (16 - covered) * pixel[c] + 8) / 16);
        }
      }
    }
  }
  return image;
}

void write_world(const std::filesystem::path& folder, const WorldSplit& split) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw RuntimeFailure("{}: cannot create the folder: {}", folder.string(), error.message());
  const auto write = [&](const char* name, const std::vector<WorldPrompt>& prompts) {
    std::string text;
    for (const WorldPrompt& prompt : prompts) text += prompt.json + "\n";
    io::write_file_atomic(folder / name, std::string_view(text));
  };
  write("train.jsonl", split.train);
  write("validation.jsonl", split.validation);
  write("test.jsonl", split.test);
}

}  // namespace unigrpo::data::shapes
