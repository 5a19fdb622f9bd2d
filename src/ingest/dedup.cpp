#include <array>
#include <bit>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "ingest/reading.h"
#include "ingest/stage.h"
#include "media/detect/fingerprint.h"

namespace unigrpo::ingest {
namespace {

using nlohmann::json;

constexpr int kPictureBits = 10;    // other bits of 64 that the same picture may have
constexpr double kSoundBits = 0.2;  // share of other bits that the same sound may have

struct Print {
  std::array<uint64_t, 3> pictures = {};
  std::vector<uint16_t> sound;
  int64_t bit_rate = 0;
};

bool are_same(const Print& a, const Print& b) {
  for (size_t i = 0; i < a.pictures.size(); ++i) {
    if (std::popcount(a.pictures[i] ^ b.pictures[i]) > kPictureBits) return false;
  }
  return media::detect::sound_distance(a.sound, b.sound) <= kSoundBits;
}

/// Clips that are the same in other files: the one of the highest bit rate stays, of equals the first by path.
class Dedup final : public Stage {
 public:
  explicit Dedup(const Options& options) : options_(options) {}
  const char* name() const override { return "dedup"; }

  json measure(const json& row) const override {
    constexpr int kSide = 64, kRate = 8000;
    const media::Clip clip = read_repaired(options_, row, {.sample_rate = kRate, .max_side = kSide});
    json pictures = json::array();
    for (const uint64_t hash : media::detect::hash_pictures(clip.frames))
      pictures.push_back(fmt::format("{:016x}", hash));
    std::string sound;
    for (const uint16_t word : media::detect::hash_sound(clip.sound)) sound += fmt::format("{:04x}", word);
    return {{"pictures", std::move(pictures)}, {"sound", sound}};
  }

  std::vector<json> collect(std::vector<json> rows, std::vector<json> measured) const override {
    std::vector<Print> prints(rows.size());
    std::vector<size_t> group(rows.size());
    std::iota(group.begin(), group.end(), size_t{0});
    const auto root = [&](size_t i) {
      while (group[i] != i) i = group[i] = group[group[i]];
      return i;
    };
    for (size_t i = 0; i < rows.size(); ++i) {
      if (measured[i].contains("dropped")) continue;
      prints[i] = print_of(rows[i], measured[i]);
      for (size_t j = 0; j < i; ++j) {
        if (!measured[j].contains("dropped") && are_same(prints[j], prints[i])) group[root(i)] = root(j);
      }
    }
    std::vector<size_t> best(rows.size());
    std::iota(best.begin(), best.end(), size_t{0});
    for (size_t i = 0; i < rows.size(); ++i) {
      size_t& kept = best[root(i)];
      if (prints[i].bit_rate > prints[kept].bit_rate ||
          (prints[i].bit_rate == prints[kept].bit_rate && rows[i]["id"] < rows[kept]["id"])) {
        kept = i;
      }
    }
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t kept = best[root(i)];
      if (kept != i)
        measured[i].update(dropped("duplicate", fmt::format("of {}", rows[kept]["id"].get<std::string>())));
      measured[i].erase("sound");
      add_measured(rows[i], name(), std::move(measured[i]));
    }
    return rows;
  }

 private:
  static Print print_of(const json& row, const json& measured) {
    Print print;
    for (size_t i = 0; i < print.pictures.size(); ++i) {
      print.pictures[i] = std::stoull(measured["pictures"][i].get<std::string>(), nullptr, 16);
    }
    const std::string sound = measured["sound"];
    for (size_t at = 0; at + 4 <= sound.size(); at += 4) {
      print.sound.push_back(static_cast<uint16_t>(std::stoul(sound.substr(at, 4), nullptr, 16)));
    }
    const json& probe = row.at("probe");
    print.bit_rate = probe.at("video").value("bit_rate", int64_t{0});
    if (probe.contains("audio")) print.bit_rate += probe["audio"].value("bit_rate", int64_t{0});
    return print;
  }

  const Options& options_;
};

}  // namespace

std::unique_ptr<Stage> make_dedup(const Options& options) { return std::make_unique<Dedup>(options); }

}  // namespace unigrpo::ingest
