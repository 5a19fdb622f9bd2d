#include "data/worlds/shapes_tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/worlds/shapes_draw.h"

namespace unigrpo::data::shapes {
namespace {

using nlohmann::ordered_json;

constexpr double kAskedIsThere = 0.75;  // share of counting questions about objects that are in the image
constexpr double kRecolored = 0.7;      // share of recolourings among the changes, where both are possible

/// Objects of one class and colour, in the order in which the scene has them.
struct Kind {
  Shape shape;
  Color color;
  int count = 0;
};

std::vector<Kind> kinds_of(const Scene& scene) {
  std::vector<Kind> kinds;
  for (const Object& object : scene) {
    const auto same = [&](const Kind& kind) { return kind.shape == object.shape && kind.color == object.color; };
    const auto found = std::find_if(kinds.begin(), kinds.end(), same);
    if (found == kinds.end()) {
      kinds.push_back({object.shape, object.color, 1});
    } else {
      ++found->count;
    }
  }
  return kinds;
}

std::string include_of(const std::vector<Kind>& kinds) {
  ordered_json include = ordered_json::array();
  for (const Kind& kind : kinds) {
    include.push_back({{"class", shape_name(kind.shape)}, {"count", kind.count}, {"color", color_name(kind.color)}});
  }
  return include.dump();
}

/// A plan without places: "<think> one blue square; two red circles </think>". What is to be gone has no colour: "zero
/// squares".
std::string plan_of(const std::vector<Kind>& kinds) {
  std::string text = "<think> ";
  for (size_t k = 0; k < kinds.size(); ++k) {
    const Kind& kind = kinds[k];
    text += fmt::format("{}{} {}{}{}", k > 0 ? "; " : "", kNumberNames[static_cast<size_t>(kind.count)],
                        kind.count > 0 ? fmt::format("{} ", color_name(kind.color)) : "", shape_name(kind.shape),
                        kind.count != 1 ? "s" : "");
  }
  return text + " </think>";
}

/// One object more, less, of another colour or of another shape.
Scene spoiled(Scene scene, RandomStream& stream) {
  constexpr int kTries = 50;
  const size_t index = static_cast<size_t>(stream.below(scene.size()));
  Object& object = scene[index];
  switch (stream.below(4)) {
    case 0:
      if (scene.size() > 1) {
        scene.erase(scene.begin() + static_cast<std::ptrdiff_t>(index));
        return scene;
      }
      break;
    case 1:
      for (int i = 0; i < kTries; ++i) {
        Object extra = object;
        extra.x = stream.uniform(extra.radius + 2, kImageSize - extra.radius - 2);
        extra.y = stream.uniform(extra.radius + 2, kImageSize - extra.radius - 2);
        const bool free = std::all_of(scene.begin(), scene.end(), [&](const Object& other) {
          return std::hypot(extra.x - other.x, extra.y - other.y) > extra.radius + other.radius + 2;
        });
        if (!free) continue;
        scene.push_back(extra);
        return scene;
      }
      break;
    case 2:
      object.shape = draw_other(kShapeNames, {object.shape}, stream);
      return scene;
    default:
      break;
  }
  object.color = draw_other(kColorNames, {object.color}, stream);
  return scene;
}

}  // namespace

TaskRow draw_answer_task(std::string_view prompt_json, double wrong, RandomStream& stream) {
  TaskRow row;
  row.image = draw_scene(prompt_json, stream);
  const std::vector<Kind> kinds = kinds_of(row.image);
  const Kind seen = draw_item(kinds, stream);
  if (stream.chance(0.5)) {
    row.tag = "color";  // a scene that fits a prompt has one colour a class
    row.prompt = fmt::format("what color {} the {}{}?", seen.count > 1 ? "are" : "is", shape_name(seen.shape),
                             seen.count > 1 ? "s" : "");
    row.text = color_name(seen.color);
  } else {
    row.tag = "count";
    Kind asked = seen;
    if (!stream.chance(kAskedIsThere)) {
      asked.shape = draw_enum<Shape>(kShapeNames, stream);
      asked.color = draw_enum<Color>(kColorNames, stream);
    }
    const auto count = std::count_if(row.image.begin(), row.image.end(), [&](const Object& object) {
      return object.shape == asked.shape && object.color == asked.color;
    });
    row.prompt = fmt::format("how many {} {}s are there?", color_name(asked.color), shape_name(asked.shape));
    row.text = kNumberNames[static_cast<size_t>(count)];
  }
  row.fields_json = ordered_json{{"metadata", {{"answer", row.text}}}}.dump();
  if (stream.chance(wrong)) {
    const std::string right = row.text;
    while (row.text == right) {
      row.text = row.tag == "color" ? kColorNames[stream.below(kColorNames.size())]
                                    : kNumberNames[stream.below(kNumberNames.size())];
    }
  }
  return row;
}

TaskRow draw_edit_task(std::string_view prompt_json, double wrong, RandomStream& stream) {
  TaskRow row;
  row.image = draw_scene(prompt_json, stream);
  std::vector<Kind> kinds = kinds_of(row.image);
  const size_t index = static_cast<size_t>(stream.below(kinds.size()));
  Kind& changed = kinds[index];
  const std::string noun = shape_name(changed.shape) + (changed.count > 1 ? "s" : "");
  if (kinds.size() == 1 || stream.chance(kRecolored)) {
    row.tag = "recolor";
    changed.color = draw_other(kColorNames, {changed.color}, stream);
    row.prompt = fmt::format("make the {} {}", noun, color_name(changed.color));
  } else {
    row.tag = "remove";
    row.prompt = fmt::format("remove the {}", noun);
    changed.count = 0;
  }
  std::vector<Kind> left = kinds;
  std::erase_if(left, [](const Kind& kind) { return kind.count == 0; });
  ordered_json fields;
  fields["include"] = ordered_json::parse(include_of(left));
  if (row.tag == "remove") fields["exclude"] = {{{"class", shape_name(changed.shape)}, {"count", 1}}};
  fields["metadata"] = {{"changed", shape_name(changed.shape)}};
  row.fields_json = fields.dump();
  Kind told = changed;
  if (stream.chance(wrong)) {
    if (row.tag == "recolor") {
      told.color = draw_other(kColorNames, {told.color}, stream);
    } else {
      told = draw_item(left, stream);
      told.count = 0;
    }
  }
  row.drawn = row.image;
  if (told.count == 0) {
    std::erase_if(*row.drawn, [&](const Object& object) { return object.shape == told.shape; });
  } else {
    for (Object& object : *row.drawn) {
      if (object.shape == told.shape) object.color = told.color;
    }
  }
  row.text = plan_of({told});
  return row;
}

TaskRow draw_describe_task(std::string_view prompt_json, RandomStream& stream) {
  TaskRow row;
  row.tag = "describe";
  row.prompt = "what is in the picture?";
  row.image = draw_scene(prompt_json, stream);
  row.text = plan_of(kinds_of(row.image));
  return row;
}

SelfCorrectExample draw_self_correct_example(std::string_view prompt_json, const NoiseConfig& noise,
                                             RandomStream& stream) {
  constexpr std::string_view kOpen = "<think> ";
  RandomStream again = stream;  // the same facts where the prompt leaves them open
  const Example right = draw_example(prompt_json, {}, stream);
  SelfCorrectExample example{.prompt = right.prompt,
                             .plan = right.plan,
                             .first = right.scene,
                             .verdict = "<think> wrong; " + right.plan.substr(kOpen.size()),
                             .second = right.scene};
  if (stream.chance(noise.plan_noise)) {
    const Example wrong = draw_example(prompt_json, {.plan_noise = 1}, again);
    example.plan = wrong.plan;
    example.first = wrong.scene;
  }
  if (stream.chance(noise.scene_noise)) {
    example.first = spoiled(example.first, stream);
    example.first_fits = false;
  } else if (example.plan == right.plan) {
    example.verdict = "<think> right </think>";
  }
  return example;
}

}  // namespace unigrpo::data::shapes
