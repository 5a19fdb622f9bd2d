#include <cmath>
#include <nlohmann/json.hpp>
#include <utility>

#include "ingest/reading.h"
#include "ingest/stage.h"
#include "media/detect/cuts.h"

namespace unigrpo::ingest {
namespace {

using nlohmann::json;

constexpr double kLeast_s = 1, kMost_s = 10;  // of a clip

/// A file into clips that no cut or fade is in: longer shots in equal parts.
class Shots final : public Stage {
 public:
  explicit Shots(const Options& options) : options_(options) {}
  const char* name() const override { return "shots"; }

  json measure(const json& row) const override {
    constexpr int kSide = 64;
    const media::Clip clip = read_row(options_, row, {.audio = media::Want::none, .max_side = kSide}).clip;
    json shots = json::array();
    for (const media::detect::Shot& shot : media::detect::find_shots(clip.frames)) {
      shots.push_back(
          {static_cast<double>(shot.first) / clip.fps.value(), static_cast<double>(shot.count) / clip.fps.value()});
    }
    return {{"shots", std::move(shots)}};
  }

  std::vector<json> collect(std::vector<json> rows, std::vector<json> measured) const override {
    std::vector<json> clips;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (measured[i].contains("dropped")) {
        add_measured(rows[i], name(), std::move(measured[i]));
        clips.push_back(std::move(rows[i]));
        continue;
      }
      const json& shots = measured[i]["shots"];
      if (shots.empty()) {
        add_measured(rows[i], name(), dropped("plain picture", "nothing but plain pictures in it"));
        clips.push_back(rows[i]);
      }
      int number = 0;
      for (const json& shot : shots) add_clips(rows[i], shot[0], shot[1], shots.size(), number, clips);
    }
    return clips;
  }

 private:
  static void add_clips(const json& row, double start_s, double seconds, size_t num_shots, int& number,
                        std::vector<json>& clips) {
    const double parts = std::max(std::ceil((seconds - 1e-6) / kMost_s), 1.0);
    for (int part = 0; part < static_cast<int>(parts); ++part, ++number) {
      json clip = row;
      clip["start_s"] = rounded(row.value("start_s", 0.0) + start_s + part * seconds / parts);
      clip["seconds"] = rounded(seconds / parts);
      clip["id"] = fmt::format("{}#{}", row["id"].get<std::string>(), number);
      clip["shots"] = {{"number", number}, {"of_shots", num_shots}};
      if (seconds < kLeast_s - 1e-6) {
        clip["dropped"] = dropped(
            "short shot", fmt::format("{:.2f} s between cuts, expected at least {} s", seconds, kLeast_s))["dropped"];
      }
      clips.push_back(std::move(clip));
    }
  }

  const Options& options_;
};

}  // namespace

std::unique_ptr<Stage> make_shots(const Options& options) { return std::make_unique<Shots>(options); }

}  // namespace unigrpo::ingest
