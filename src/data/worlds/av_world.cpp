#include "data/worlds/av_world.h"

#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "io/json.h"

namespace unigrpo::data::av {
namespace {

constexpr int kPitches = 12;
constexpr std::array kMovePrompts = {"stays still before", "pans left past", "pans right past", "pans up past",
                                     "pans down past",     "zooms in on",    "zooms out from"};

template <typename T, size_t N>
T draw_one(const std::array<const char*, N>&, RandomStream& stream) {
  return static_cast<T>(stream.below(N));
}

Body draw_body(RandomStream& stream, double x, double radius) {
  Body body;
  body.shape = draw_one<shapes::Shape>(shapes::kShapeNames, stream);
  body.color = draw_one<shapes::Color>(shapes::kColorNames, stream);
  body.x = x;
  body.radius = radius;
  body.speed_in = stream.uniform(18, 26);
  body.speed_out = body.speed_in * stream.uniform(0.6, 0.9);
  return body;
}

Event event_at(Source source, double time_s, int pitch = -1) {
  return {.source = source, .time_s = time_s, .sound_time_s = time_s, .pitch = pitch};
}

Camera camera_of(Move move, bool quick) {
  const double speed = quick ? 16 : 8, zoom = quick ? 0.32 : 0.16;
  switch (move) {
    case Move::left:
      return {.dx = -speed};
    case Move::right:
      return {.dx = speed};
    case Move::up:
      return {.dy = -speed};
    case Move::down:
      return {.dy = speed};
    case Move::zoom_in:
      return {.zoom = zoom};
    case Move::zoom_out:
      return {.zoom = -zoom};
    case Move::still:
      break;
  }
  return {};
}

Scene draw_any(RandomStream& stream) {
  Scene scene;
  scene.kind = draw_one<SceneKind>(kSceneNames, stream);
  scene.silent = stream.chance(0.1);
  scene.texture = stream.next_u64();
  const int pitch = static_cast<int>(stream.below(kPitches));
  switch (scene.kind) {
    case SceneKind::bounce:
      scene.bodies = {draw_body(stream, stream.uniform(9, 23), stream.uniform(4, 5.5))};
      scene.events = {event_at(Source::tone, stream.uniform(0.3, 0.75), pitch)};
      break;
    case SceneKind::mouth: {
      scene.vowel = draw_one<int>(kVowelNames, stream);
      const auto count = 2 + stream.below(3);
      const double gap_s = 0.9 / static_cast<double>(count);
      const double first_s = 0.08 + gap_s / 2 + stream.uniform(-0.03, 0.03);
      for (uint64_t i = 0; i < count; ++i) {
        scene.events.push_back(event_at(Source::syllable, first_s + static_cast<double>(i) * gap_s));
      }
      break;
    }
    case SceneKind::camera:
      scene.bodies = {draw_body(stream, stream.uniform(13, 19), stream.uniform(3, 4.5))};
      scene.move = static_cast<Move>(stream.below(kMovePrompts.size()));
      scene.quick = stream.chance(0.5);
      scene.camera = camera_of(scene.move, scene.quick);
      scene.events = {event_at(Source::hum, 0, pitch)};
      break;
    case SceneKind::two_events: {
      const bool left_first = stream.chance(0.5), bell_first = stream.chance(0.5);
      scene.bodies = {draw_body(stream, left_first ? 8.5 : 23.5, 3.5), draw_body(stream, left_first ? 23.5 : 8.5, 3.5)};
      const double first_s = stream.uniform(0.25, 0.4);
      scene.events = {event_at(bell_first ? Source::bell : Source::drum, first_s),
                      event_at(bell_first ? Source::drum : Source::bell, first_s + stream.uniform(0.25, 0.4))};
      break;
    }
    case SceneKind::side:
      scene.bodies = {draw_body(stream, stream.chance(0.5) ? 8 : 24, stream.uniform(4, 5.5))};
      scene.events = {event_at(Source::hum, 0, pitch)};
      break;
  }
  return scene;
}

std::string thing(const Body& body) {
  return fmt::format("{} {} {}", body.color == shapes::Color::orange ? "an" : "a",
                     shapes::kColorNames[static_cast<size_t>(body.color)],
                     shapes::kShapeNames[static_cast<size_t>(body.shape)]);
}

}  // namespace

double frequency_of(int pitch) { return 261.6256 * std::exp2(pitch / 12.0); }

std::optional<bool> is_held_out(const Scene& scene) {
  if (scene.kind == SceneKind::camera) {
    const int object = 6 * static_cast<int>(scene.bodies[0].shape) + static_cast<int>(scene.bodies[0].color);
    return (static_cast<int>(scene.move) + 3 * object) % 5 == 0;
  }
  if (scene.silent || scene.events.empty() || scene.events[0].pitch < 0) return std::nullopt;
  return (scene.events[0].pitch + 5 * static_cast<int>(scene.bodies[0].color)) % 6 == 0;
}

Scene draw_scene(bool for_test, RandomStream& stream) {
  for (;;) {
    Scene scene = draw_any(stream);
    if (is_held_out(scene).value_or(for_test) == for_test) return scene;
  }
}

Scene spoiled(const Scene& asked, RandomStream& stream) {
  Scene scene = asked;
  const bool late = stream.chance(0.5), other_pitch = stream.chance(0.2), other_order = stream.chance(0.25);
  const double offset_s = 0.08 * stream.normal(), speed = stream.uniform(0.5, 1.5);
  const int shift = 1 + static_cast<int>(stream.below(kPitches - 1));
  for (Event& event : scene.events) {
    if (late) event.sound_time_s = std::max(event.sound_time_s + offset_s, 0.0);
    if (other_pitch && event.pitch >= 0) event.pitch = (event.pitch + shift) % kPitches;
  }
  if (other_order && scene.kind == SceneKind::two_events) {
    std::swap(scene.events[0].source, scene.events[1].source);
  }
  scene.camera = {.dx = scene.camera.dx * speed, .dy = scene.camera.dy * speed, .zoom = scene.camera.zoom * speed};
  return scene;
}

std::string prompt_of(const Scene& scene) {
  const auto sound = [&](const char* with) {
    if (scene.silent) return std::string(" in silence");
    return fmt::format("{}{}", with, kPitchNames[static_cast<size_t>(scene.events[0].pitch)]);
  };
  switch (scene.kind) {
    case SceneKind::bounce:
      return thing(scene.bodies[0]) + " falls and touches the floor" + sound(" with a tone of ");
    case SceneKind::mouth: {
      constexpr std::array kCounts = {"two", "three", "four"};
      const char* count = kCounts[scene.events.size() - 2];
      if (scene.silent) return fmt::format("a mouth forms {} {} times in silence", kVowelNames[scene.vowel], count);
      return fmt::format("a mouth says {} {} times", kVowelNames[scene.vowel], count);
    }
    case SceneKind::camera: {
      const char* speed = scene.move == Move::still ? "" : scene.quick ? "quickly " : "slowly ";
      return fmt::format("the camera {}{} {}{}", speed, kMovePrompts[static_cast<size_t>(scene.move)],
                         thing(scene.bodies[0]), sound(" with a steady tone of "));
    }
    case SceneKind::two_events:
      if (scene.silent) {
        return fmt::format("first {} falls, then {}, in silence", thing(scene.bodies[0]), thing(scene.bodies[1]));
      }
      return fmt::format("first the {} of {}, then the {} of {}",
                         kSourceNames[static_cast<size_t>(scene.events[0].source)], thing(scene.bodies[0]),
                         kSourceNames[static_cast<size_t>(scene.events[1].source)], thing(scene.bodies[1]));
    case SceneKind::side:
      return fmt::format("{} on the {}{}", thing(scene.bodies[0]), scene.bodies[0].x < kSide / 2.0 ? "left" : "right",
                         sound(" hums a tone of "));
  }
  return "";
}

Scene scene_of(const Draw& draw) {
  RandomStream stream({.seed = draw.seed, .prompt = draw.part, .sample = draw.index, .purpose = Purpose::world_scene});
  return draw_scene(draw.part == 2, stream);
}

Scene scene_of_row(const std::string& metadata_json, const std::string& prompt) {
  const nlohmann::json row = io::parse_json(metadata_json, "metadata");
  Draw draw;
  try {
    const nlohmann::json& place = row.at("metadata").at("av").at("draw");
    draw = {.seed = place.at("seed"), .part = place.at("part"), .index = place.at("index")};
  } catch (const nlohmann::json::exception&) {
    throw BadInput("'metadata.av.draw' with seed, part and index is missing; expected a row of `unigrpo data av`");
  }
  Scene scene = scene_of(draw);
  if (prompt_of(scene) != prompt) {
    throw BadInput("'metadata.av.draw' is of the prompt {}, not of the row's", in_quotes(prompt_of(scene)));
  }
  return scene;
}

std::string row_of(const Scene& scene, const std::string& id, const std::optional<Draw>& draw) {
  using nlohmann::ordered_json;
  ordered_json events = ordered_json::array(), order = ordered_json::array(), objects = ordered_json::array();
  for (const Event& event : scene.events) {
    if (scene.silent && event.source == Source::hum) continue;  // neither seen nor heard
    ordered_json one = {{"kind", kSourceNames[static_cast<size_t>(event.source)]}, {"time", event.time_s}};
    if (event.pitch >= 0 && !scene.silent) one["pitch"] = event.pitch;
    events.push_back(one);
    order.push_back(kSourceNames[static_cast<size_t>(event.source)]);
  }
  for (const Body& body : scene.bodies) {
    objects.push_back({{"class", shapes::kShapeNames[static_cast<size_t>(body.shape)]},
                       {"color", shapes::kColorNames[static_cast<size_t>(body.color)]}});
  }
  const char* name = kSceneNames[static_cast<size_t>(scene.kind)];
  ordered_json av = {{"scene", name}, {"silent", scene.silent}, {"objects", objects}, {"events", events}};
  switch (scene.kind) {
    case SceneKind::bounce:
      break;
    case SceneKind::mouth:
      av["syllables"] = scene.events.size();
      av["vowel"] = kVowelNames[static_cast<size_t>(scene.vowel)];
      break;
    case SceneKind::camera:
      av["camera"] = {{"dx", scene.camera.dx}, {"dy", scene.camera.dy}, {"zoom", scene.camera.zoom}};
      break;
    case SceneKind::two_events:
      if (!scene.silent) av["order"] = order;
      break;
    case SceneKind::side:
      av["side"] = scene.bodies[0].x < kSide / 2.0 ? "left" : "right";
      break;
  }
  if (draw) av["draw"] = {{"seed", draw->seed}, {"part", draw->part}, {"index", draw->index}};
  const ordered_json row = {{"id", id}, {"tag", name}, {"prompt", prompt_of(scene)}, {"metadata", {{"av", av}}}};
  return row.dump();
}

}  // namespace unigrpo::data::av
