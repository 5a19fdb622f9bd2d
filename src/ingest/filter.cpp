#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "ingest/reading.h"
#include "ingest/stage.h"
#include "media/detect/quality.h"

namespace unigrpo::ingest {
namespace {

using media::detect::PictureQuality;
using media::detect::SoundQuality;
using nlohmann::json;

constexpr double kDark = 24, kDarkEnd = 60;  // mean, and what 95% are below, 0..255
constexpr double kFrozen = 0.002;            // share of pixels
constexpr double kTextEdges = 0.2;           // share of pixels
constexpr double kBar = 0.03;                // share of a side: less is an edge of the picture
constexpr double kLeastInside = 0.3;         // of a side
constexpr double kSilent_db = -50, kDead_db = -65, kAlive_db = -50;
constexpr double kFullScale = 0.02, kClipped = 0.5;  // share of samples; of those above half of full scale
constexpr double kRepeated = 0.4;                    // share of frames: slow motion

std::optional<json> fault_of(const PictureQuality& look) {
  if (look.brightness < kDark && look.bright_end < kDarkEnd) {
    return dropped("dark", fmt::format("mean brightness {:.0f} of 255", look.brightness));
  }
  if (look.moving < kFrozen) return dropped("frozen", "nothing moves");
  if (look.edge_density > kTextEdges) {
    return dropped("text", fmt::format("{:.0f}% of its pixels are at strong edges", 100 * look.edge_density));
  }
  if (look.inside.width < kLeastInside || look.inside.height < kLeastInside) {
    return dropped("bars", fmt::format("black bars leave {:.0f}% x {:.0f}% of the picture", 100 * look.inside.width,
                                       100 * look.inside.height));
  }
  return std::nullopt;
}

json repairs_of(const PictureQuality& look, const SoundQuality* sound) {
  json repairs = json::object();
  const PictureQuality::Box& box = look.inside;
  const bool bars = box.x > kBar || box.y > kBar || 1 - box.x - box.width > kBar || 1 - box.y - box.height > kBar;
  if (bars) repairs["crop"] = {rounded(box.x), rounded(box.y), rounded(box.width), rounded(box.height)};
  for (int c = 0; sound != nullptr && c < 2; ++c) {
    if (sound->channel_db[1 - c] < kDead_db && sound->channel_db[c] > kAlive_db) repairs["copy_channel"] = c;
  }
  return repairs;
}

/// Drops what nobody can learn from, and says how to repair what can be.
class Filter final : public Stage {
 public:
  explicit Filter(const Options& options) : options_(options) {}
  const char* name() const override { return "filter"; }
  json settings() const override { return {{"keep_mute", options_.keep_mute}}; }

  json measure(const json& row) const override {
    constexpr int kSide = 256;
    const bool heard = has_stream(row, "audio");
    media::ReadOptions read = {.audio = media::Want::required, .max_side = kSide};
    const media::Clip clip = read_row(options_, row, read).clip;
    const PictureQuality look = media::detect::look_at_quality(clip.frames, clip.fps);
    const SoundQuality sound = media::detect::listen_to_quality(clip.sound);
    json measured = {{"brightness", rounded(look.brightness)}, {"edge_density", rounded(look.edge_density)},
                     {"moving", rounded(look.moving)},         {"motion", rounded(look.motion)},
                     {"repeated", rounded(look.repeated)},     {"slow_motion", look.repeated >= kRepeated}};
    if (heard) {
      measured["level_db"] = rounded(sound.level_db);
      measured["clipped"] = rounded(sound.clipped);
    }
    std::optional<json> fault = fault_of(look);
    const bool silent = heard && sound.level_db < kSilent_db;
    measured["silent"] = silent;
    if (!fault && silent && !options_.keep_mute) fault = dropped("silent", fmt::format("{:.0f} dBFS", sound.level_db));
    if (!fault && heard && sound.full_scale > kFullScale && sound.clipped > kClipped) {
      fault = dropped("clipped", fmt::format("{:.0f}% of its samples are at full scale", 100 * sound.full_scale));
    }
    if (fault) measured.update(*fault);
    measured["repairs"] = repairs_of(look, heard && !silent ? &sound : nullptr);
    return measured;
  }

  std::vector<json> collect(std::vector<json> rows, std::vector<json> measured) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      if (measured[i].contains("repairs") && !measured[i]["repairs"].empty())
        rows[i]["repairs"] = measured[i]["repairs"];
      if (measured[i].value("silent", false)) make_mute(rows[i]);
      measured[i].erase("repairs");
      add_measured(rows[i], name(), std::move(measured[i]));
    }
    return rows;
  }

 private:
  const Options& options_;
};

}  // namespace

std::unique_ptr<Stage> make_filter(const Options& options) { return std::make_unique<Filter>(options); }

}  // namespace unigrpo::ingest
