#include <algorithm>
#include <cmath>
#include <numbers>

#include "data/worlds/av_world.h"

namespace unigrpo::data::av {
namespace {

using Rgb = std::array<double, 3>;
constexpr double kPi = std::numbers::pi;
constexpr double kMiddle_s = (kFrames - 1) / 2.0 / kFps;
constexpr Rgb kGround = {210, 210, 210}, kFloor = {120, 120, 120}, kSkin = {225, 180, 150}, kMouth = {30, 15, 15};
constexpr double kOpening_s = 0.09;  // half of a syllable

/// A point's place within a body of radius 1 around (0, 0), y down.
bool is_inside(shapes::Shape shape, double x, double y) {
  switch (shape) {
    case shapes::Shape::circle:
      return x * x + y * y <= 1;
    case shapes::Shape::square:
      return std::max(std::abs(x), std::abs(y)) <= 0.8;
    case shapes::Shape::triangle:
      return y <= 0.5 && std::abs(x) <= (y + 1) * std::tan(kPi / 6);
    case shapes::Shape::star: {
      constexpr double kInner = 0.5, kFifth = 2 * kPi / 5, kHalf = kPi / 5;
      double angle = std::fmod(std::atan2(x, -y) + 2 * kPi, kFifth);  // from a tip
      angle = std::min(angle, kFifth - angle);
      const double edge = kInner * std::sin(kHalf) / (kInner * std::sin(kHalf - angle) + std::sin(angle));
      return std::hypot(x, y) <= edge;
    }
  }
  return false;
}

/// How far below its centre a body of radius 1 ends.
double lowest(shapes::Shape shape) {
  constexpr std::array kLowest = {1.0, 0.8, 0.5, 0.809017};
  return kLowest[static_cast<size_t>(shape)];
}

Rgb color_of(const Body& body) {
  const auto& rgb = shapes::kColorRgb[static_cast<size_t>(body.color)];
  return {double(rgb[0]), double(rgb[1]), double(rgb[2])};
}

double opening(const Scene& scene, double t, double Event::*when) {
  double open = 0;
  for (const Event& event : scene.events) {
    const double off = (t - event.*when) / kOpening_s;
    if (std::abs(off) < 1) open = std::max(open, 0.5 + 0.5 * std::cos(kPi * off));
  }
  return open;
}

/// Greys that vary smoothly without end: waves in all directions.
class Texture {
 public:
  explicit Texture(uint64_t seed) {
    RandomStream stream({.seed = seed, .purpose = Purpose::world_scene});
    for (Wave& wave : waves_) {
      const double angle = stream.uniform(0, 2 * kPi), length = stream.uniform(5, 14);
      wave = {2 * kPi / length * std::cos(angle), 2 * kPi / length * std::sin(angle), stream.uniform(0, 2 * kPi)};
    }
  }
  Rgb at(double x, double y) const {
    double sum = 0;
    for (const Wave& wave : waves_) sum += std::sin(wave.x * x + wave.y * y + wave.phase);
    const double grey = 175 + 11 * sum;
    return {grey, grey, grey};
  }

 private:
  struct Wave {
    double x, y, phase;
  };
  std::array<Wave, 6> waves_{};
};

class Painter {
 public:
  explicit Painter(const Scene& scene) : scene_(scene), texture_(scene.texture) {}

  Rgb at(double x, double y, double t) const {
    switch (scene_.kind) {
      case SceneKind::mouth:
        return mouth_at(x - kSide / 2.0, y - kSide / 2.0, t);
      case SceneKind::camera:
        return world_at(x, y, t);
      default:
        break;
    }
    for (size_t i = 0; i < scene_.bodies.size(); ++i) {
      const Body& body = scene_.bodies[i];
      const double center = scene_.kind == SceneKind::side ? kSide / 2.0 : height_of(body, scene_.events[i], t);
      if (is_inside(body.shape, (x - body.x) / body.radius, (y - center) / body.radius)) return color_of(body);
    }
    return y >= kFloorY ? kFloor : kGround;
  }

 private:
  static double height_of(const Body& body, const Event& event, double t) {
    const double off = t - event.time_s;
    return kFloorY - lowest(body.shape) * body.radius - (off < 0 ? -body.speed_in * off : body.speed_out * off);
  }
  Rgb mouth_at(double x, double y, double t) const {
    constexpr std::array kWidths = {5.0, 7.0, 3.0}, kHeights = {4.5, 2.8, 3.4};
    const double width = kWidths[scene_.vowel];
    const double height = 0.4 + kHeights[scene_.vowel] * opening(scene_, t, &Event::time_s);
    if (std::pow(x / width, 2) + std::pow((y - 4) / height, 2) <= 1) return kMouth;
    return std::pow(x / 12, 2) + std::pow(y / 14, 2) <= 1 ? kSkin : kGround;
  }
  Rgb world_at(double x, double y, double t) const {
    const double off = t - kMiddle_s, scale = std::exp(scene_.camera.zoom * off);
    const double wx = (x - kSide / 2.0) / scale + scene_.camera.dx * off;
    const double wy = (y - kSide / 2.0) / scale + scene_.camera.dy * off;
    const Body& body = scene_.bodies[0];
    if (is_inside(body.shape, (wx - (body.x - kSide / 2.0)) / body.radius, wy / body.radius)) return color_of(body);
    return texture_.at(wx, wy);
  }

  const Scene& scene_;
  Texture texture_;
};

media::Frames render_frames(const Scene& scene) {
  constexpr int kFine = 4;
  media::Frames frames = {.count = kFrames, .height = kSide, .width = kSide, .pixels = {}};
  frames.pixels.resize(kFrames * frames.frame_bytes());
  const Painter painter(scene);
  for (int k = 0; k < kFrames; ++k) {
    uint8_t* pixel = frames.frame(k);
    for (int y = 0; y < kSide; ++y) {
      for (int x = 0; x < kSide; ++x) {
        Rgb sum = {};
        for (int i = 0; i < kFine * kFine; ++i) {
          const Rgb rgb = painter.at(x + (i % kFine + 0.5) / kFine, y + (i / kFine + 0.5) / kFine, double(k) / kFps);
          for (int c = 0; c < 3; ++c) sum[c] += rgb[c];
        }
        for (int c = 0; c < 3; ++c)
          *pixel++ = static_cast<uint8_t>(std::lround(std::clamp(sum[c] / (kFine * kFine), 0.0, 255.0)));
      }
    }
  }
  return frames;
}

double wave(double frequency, double t) { return std::sin(2 * kPi * frequency * t); }

/// What a source sounds like t seconds after its onset; `noise` is white.
double struck(const Event& event, double t, double noise) {
  if (t < 0) return 0;
  const double attack = 1 - std::exp(-t / 0.001);
  switch (event.source) {
    case Source::tone: {
      const double f = frequency_of(event.pitch);
      return 0.5 * attack * std::exp(-5 * t) * (wave(f, t) + 0.3 * wave(2 * f, t));
    }
    case Source::bell:
      return 0.35 * attack *
             (std::exp(-4 * t) * wave(1180, t) + 0.6 * std::exp(-6 * t) * wave(1930, t) +
              0.4 * std::exp(-9 * t) * wave(2870, t));
    case Source::drum:
      return 0.8 * attack * std::exp(-14 * t) * std::sin(2 * kPi * (95 * t + 3 * (1 - std::exp(-20 * t)))) +
             0.1 * std::exp(-80 * t) * noise;
    default:
      return 0;
  }
}

/// Harmonics of a voice under two formants.
double vowel_at(int vowel, double t) {
  constexpr double kVoice = 150, kHighest = 3500;
  constexpr std::array<std::array<double, 2>, 3> kFormants = {{{700, 1200}, {300, 2300}, {320, 800}}};
  double sum = 0;
  for (double f = kVoice; f < kHighest; f += kVoice) {
    double gain = 0;
    for (const double formant : kFormants[vowel]) gain += 1 / (1 + std::pow((f - formant) / 120, 2));
    sum += gain * wave(f, t);
  }
  return 0.15 * sum;
}

media::Sound render_sound(const Scene& scene) {
  media::Sound sound = {.channels = 2, .rate = kRate, .samples = std::vector<float>(2 * kSamples)};
  if (scene.silent) return sound;
  RandomStream noise({.seed = scene.texture, .purpose = Purpose::world_plan});
  std::array<double, 2> gains = {1, 1};
  if (scene.kind == SceneKind::side) gains[scene.bodies[0].x < kSide / 2.0 ? 1 : 0] = std::pow(10, -kSideLevel / 20);
  for (int i = 0; i < kSamples; ++i) {
    const double t = double(i) / kRate, white = noise.uniform(-1, 1);
    double value = 0;
    if (scene.kind == SceneKind::mouth) value = opening(scene, t, &Event::sound_time_s) * vowel_at(scene.vowel, t);
    for (const Event& event : scene.events) {
      value += struck(event, t - event.sound_time_s, white);
      if (event.source == Source::hum) {
        const double f = frequency_of(event.pitch);
        value += 0.25 * std::min(1.0, t / 0.02) * (wave(f, t) + 0.3 * wave(2 * f, t));
      }
    }
    for (int c = 0; c < 2; ++c) {
      const double level = std::clamp(value * gains[c], -1.0, 1.0);
      sound.channel(c)[i] = static_cast<float>(std::lround(level * 32767)) / 32767;
    }
  }
  return sound;
}

}  // namespace

media::Clip render(const Scene& scene) {
  return {.frames = render_frames(scene), .fps = {kFps, 1}, .sound = render_sound(scene)};
}

}  // namespace unigrpo::data::av
