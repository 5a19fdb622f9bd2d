#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/sha256.h"
#include "ingest/reading.h"
#include "ingest/stage.h"
#include "media/read_clip.h"

namespace unigrpo::ingest {
namespace {

using nlohmann::json;

json of(const media::Rational& rate) { return {rate.num, rate.den}; }

int64_t bit_rate(int64_t num_bytes, double seconds) {
  return seconds > 0 ? static_cast<int64_t>(static_cast<double>(num_bytes) * 8 / seconds) : 0;
}

json of(const media::VideoInfo& info) {
  return {{"codec", info.codec},
          {"pixel_format", info.pixel_format},
          {"width", info.width},
          {"height", info.height},
          {"coded_width", info.coded_width},
          {"coded_height", info.coded_height},
          {"sample_aspect", of(info.sample_aspect)},
          {"rotation", info.rotation},
          {"num_packets", info.num_packets},
          {"bit_rate", bit_rate(info.num_bytes, info.seconds)},
          {"start_s", rounded(info.start_s)},
          {"seconds", rounded(info.seconds)},
          {"fps_average", of(info.fps_average)},
          {"fps_real", of(info.fps_real)},
          {"constant_rate", info.constant_rate}};
}

json of(const media::AudioInfo& info) {
  return {{"codec", info.codec},
          {"layout", info.layout},
          {"channels", info.channels},
          {"rate", info.rate},
          {"num_packets", info.num_packets},
          {"bit_rate", bit_rate(info.num_bytes, info.seconds)},
          {"start_s", rounded(info.start_s)},
          {"seconds", rounded(info.seconds)}};
}

/// What containers, streams and packets' times say; nothing is decoded.
class Probe final : public Stage {
 public:
  explicit Probe(const Options& options) : options_(options) {}
  const char* name() const override { return "probe"; }
  json settings() const override { return {{"keep_mute", options_.keep_mute}}; }

  json measure(const json& row) const override {
    if (row.contains("unreadable")) return dropped("bad name", "its name is no UTF-8");
    const auto path = options_.in / row.at("path").get<std::string>();
    const media::ReadOptions read = {.audio = options_.keep_mute ? media::Want::optional : media::Want::required,
                                     .decode = false};
    const media::ReadResult result = media::read_clip(path, read);
    json measured = {{"sha256", sha256_of_file(path)},
                     {"container", result.info.container},
                     {"seconds", rounded(result.info.seconds)},
                     {"tags", result.info.tags},
                     {"notes", result.notes},
                     {"video", of(result.info.video.value())}};
    if (result.info.audio) measured["audio"] = of(*result.info.audio);
    for (const json& sidecar : row.at("sidecars")) {
      measured["sidecars"].push_back(sha256_of_file(options_.in / sidecar.at("path").get<std::string>()));
    }
    return measured;
  }

  /// Rows without what a copy of the folder would have otherwise.
  std::vector<json> collect(std::vector<json> rows, std::vector<json> measured) const override {
    for (size_t i = 0; i < rows.size(); ++i) {
      json& row = rows[i];
      row.erase("changed");
      row.erase("unreadable");
      for (size_t k = 0; k < row["sidecars"].size(); ++k) {
        json& sidecar = row["sidecars"][k];
        sidecar = {{"path", sidecar["path"]}};
        if (measured[i].contains("sidecars")) sidecar["sha256"] = measured[i]["sidecars"][k];
      }
      if (!measured[i].contains("dropped")) {
        row["start_s"] = 0;
        row["seconds"] = measured[i]["seconds"];
        row["streams"] = {"video"};
        if (measured[i].contains("audio")) row["streams"].push_back("audio");
        row["sha256"] = measured[i]["sha256"];
      }
      for (const char* key : {"seconds", "sha256", "sidecars"}) measured[i].erase(key);
      add_measured(row, name(), std::move(measured[i]));
    }
    return rows;
  }

 private:
  const Options& options_;
};

}  // namespace

std::unique_ptr<Stage> make_probe(const Options& options) { return std::make_unique<Probe>(options); }

}  // namespace unigrpo::ingest
