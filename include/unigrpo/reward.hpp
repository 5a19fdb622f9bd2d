// A reward of one's own, in C++17 with the standard library only:
//
//   #include <unigrpo/reward.hpp>
//
//   class Brevity : public unigrpo::Reward {
//    public:
//     explicit Brevity(const unigrpo::Settings& settings) : limit_(settings.number("limit", 200)) {}
//     std::vector<unigrpo::Score> score(const unigrpo::Samples& samples) override {
//       std::vector<unigrpo::Score> scores;
//       for (const unigrpo::Sample& sample : samples) scores.push_back(sample.text().size() <= limit_ ? 1.0 : 0.0);
//       return scores;
//     }
//    private:
//     double limit_;
//   };
//   UNIGRPO_REWARD_PLUGIN(Brevity, "brevity")
//
// Built as a shared library and named in a recipe ([[rewards]] kind = "plugin", path = "brevity.so"), it scores a
// run; `unigrpo reward --plugin brevity.so --samples samples.jsonl` tries it without one. Underneath is
// reward_plugin.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "unigrpo/json.hpp"
#include "unigrpo/reward_plugin.h"

namespace unigrpo {
inline namespace sdk_v1 {

/// 8-bit RGB, rows from top to bottom. Valid during the call to score().
struct Image {
  const uint8_t* pixels = nullptr;
  int width = 0;
  int height = 0;
  int64_t row_stride = 0;  // bytes from one row to the next

  /// The three bytes of a pixel.
  const uint8_t* at(int x, int y) const { return pixels + y * row_stride + 3 * static_cast<int64_t>(x); }
};

/// One piece of an episode.
struct Segment {
  enum class Kind : uint32_t { text = UNIGRPO_SEGMENT_TEXT, image = UNIGRPO_SEGMENT_IMAGE };  // others may come
  Kind kind = Kind::text;
  std::string_view text;   // text: without special tokens
  int64_t num_tokens = 0;  // text: the end token included
  bool finished = true;    // text: false where the length limit cut it
  Image image;             // image
};

/// One finished episode. Valid during the call to score().
struct Sample {
  std::string_view id;  // "<prompt id>/<number>"
  std::string_view prompt;
  std::string_view metadata_json;  // what the prompt file says beside the prompt: Json::parse(metadata_json)
  int64_t group = 0;               // samples of one prompt share it
  std::vector<Segment> segments;   // in the order in which they were produced
  std::vector<Image> images;       // images of the prompt itself

  /// The last image that was drawn; nullptr where there is none.
  const Image* last_image() const {
    for (auto segment = segments.rbegin(); segment != segments.rend(); ++segment) {
      if (segment->kind == Segment::Kind::image) return &segment->image;
    }
    return nullptr;
  }
  /// All text segments, one a line.
  std::string text() const {
    std::string all;
    for (const Segment& segment : segments) {
      if (segment.kind != Segment::Kind::text) continue;
      if (!all.empty()) all += '\n';
      all += segment.text;
    }
    return all;
  }
};
using Samples = std::vector<Sample>;

/// What a reward says of one sample: a number, or several named ones, or why there is none. Never write 0 for "cannot
/// tell".
class Score {
 public:
  Score() = default;
  Score(double value) { set("", value); }  // NOLINT: scores.push_back(0.5)
  /// No score, and why: the sample is then handled as the recipe's reward.on_error says.
  static Score missing(std::string reason) { return Score().set_missing("", std::move(reason)); }

  /// A dimension that options() declares; "" is the first one.
  Score& set(std::string dimension, double value) {
    entries_.push_back({std::move(dimension), value, ""});
    return *this;
  }
  Score& set_missing(std::string dimension, std::string reason) {
    entries_.push_back({std::move(dimension), std::nullopt, std::move(reason)});
    return *this;
  }
  /// Anything worth reading beside the score, written to samples.jsonl.
  Score& note(std::string name, std::string text) {
    notes_.emplace_back(std::move(name), std::move(text));
    return *this;
  }

  struct Entry {
    std::string dimension;
    std::optional<double> value;
    std::string reason;
  };
  const std::vector<Entry>& entries() const { return entries_; }
  const std::vector<std::pair<std::string, std::string>>& notes() const { return notes_; }

 private:
  std::vector<Entry> entries_;
  std::vector<std::pair<std::string, std::string>> notes_;
};

/// One of the numbers that a reward gives; a value outside of [min, max] is refused.
struct Dimension {
  std::string name;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

/// How a reward wants to be called.
struct Options {
  uint32_t batch_size = 1;            // samples a call, at most; with wants_groups whole groups, at least one
  uint32_t threads = 1;               // calls that may run at once, in processes of their own where isolated
  bool wants_groups = false;          // every call holds whole groups (Sample::group), for rewards that compare
  std::vector<Dimension> dimensions;  // the first one is the main number; none: a single one without bounds
};

/// Derive from this. Whatever it throws is caught and becomes the reason why the call's samples have no score.
class Reward {
 public:
  virtual ~Reward() = default;
  virtual Options options() const { return {}; }
  /// One score a sample, in order.
  virtual std::vector<Score> score(const Samples& samples) = 0;
};

/// The recipe's table [rewards.settings]. Read it in the constructor: a key that was not asked for by then is
/// refused, so that a misspelled one is found. A value of another type than asked for throws std::runtime_error naming
/// the key.
class Settings {
 public:
  explicit Settings(std::string_view json) : values_(Json::parse(json)) {}

  double number(const std::string& key, double fallback) const {
    return read<double>(key, [&](const Json& value) { return value.is_null() ? fallback : value.number(); });
  }
  std::string text(const std::string& key, const std::string& fallback) const {
    return read<std::string>(key, [&](const Json& value) { return value.is_null() ? fallback : value.string(); });
  }
  bool flag(const std::string& key, bool fallback) const {
    return read<bool>(key, [&](const Json& value) { return value.is_null() ? fallback : value.boolean(); });
  }
  /// Lists and tables; null where the key is not there.
  const Json& json(const std::string& key) const {
    asked_.insert(key);
    return values_[key];
  }
  /// Throws std::runtime_error for a key that nobody asked for.
  void check_all_read() const {
    for (const auto& item : values_.object()) {
      if (asked_.count(item.first) == 0) throw std::runtime_error("unknown setting '" + item.first + "'");
    }
  }

 private:
  template <typename T, typename Read>
  T read(const std::string& key, Read read_value) const {
    try {
      return read_value(json(key));
    } catch (const std::runtime_error& error) {
      throw std::runtime_error("setting '" + key + "': " + error.what());
    }
  }
  Json values_;
  mutable std::set<std::string> asked_;
};

/// The border between the C table and a class derived from Reward.
template <typename R>
class RewardGlue {
 public:
  static int32_t create(unigrpo_text settings_json, void** reward, unigrpo_reward_info* info, char* error,
                        uint64_t error_size) {
    return guarded(error, error_size, [&] {
      const Settings settings(view(settings_json));
      auto state = std::make_unique<State>(settings);
      settings.check_all_read();
      state->describe(*info);
      *reward = state.release();
    });
  }

  static int32_t score(void* reward, const unigrpo_sample* const* samples, uint64_t num_samples,
                       const unigrpo_sink* sink, char* error, uint64_t error_size) {
    return guarded(error, error_size, [&] {
      State& state = *static_cast<State*>(reward);
      Samples all;
      for (uint64_t n = 0; n < num_samples; ++n) all.push_back(sample_of(*samples[n]));
      const std::vector<Score> scores = state.reward.score(all);
      if (scores.size() != num_samples) {
        throw std::runtime_error("gave " + std::to_string(scores.size()) + " scores for " +
                                 std::to_string(num_samples) + " samples");
      }
      for (uint64_t n = 0; n < num_samples; ++n) state.tell(scores[n], n, *sink);
    });
  }

  static void destroy(void* reward) { delete static_cast<State*>(reward); }

 private:
  struct State {
    explicit State(const Settings& settings) : reward(settings), options(reward.options()) {}

    void describe(unigrpo_reward_info& info) {
      for (const Dimension& each : options.dimensions) {
        dimensions.push_back({sizeof(unigrpo_dimension), 0, each.name.c_str(), each.min, each.max});
      }
      for (const unigrpo_dimension& each : dimensions) pointers.push_back(&each);
      info.batch_size = options.batch_size;
      info.threads = options.threads;
      info.wants_groups = options.wants_groups ? 1 : 0;
      info.num_dimensions = static_cast<uint32_t>(pointers.size());
      info.dimensions = pointers.data();
    }

    uint32_t index_of(const std::string& name) const {
      if (name.empty()) return 0;
      for (size_t i = 0; i < options.dimensions.size(); ++i) {
        if (options.dimensions[i].name == name) return static_cast<uint32_t>(i);
      }
      throw std::runtime_error("a score names the dimension '" + name + "', which options() does not declare");
    }

    void tell(const Score& score, uint64_t sample, const unigrpo_sink& sink) const {
      for (const Score::Entry& entry : score.entries()) {
        const uint32_t dimension = index_of(entry.dimension);
        if (entry.value) {
          sink.set_score(sink.context, sample, dimension, *entry.value);
        } else {
          sink.set_missing(sink.context, sample, dimension, entry.reason.c_str());
        }
      }
      for (const auto& note : score.notes())
        sink.set_note(sink.context, sample, note.first.c_str(), note.second.c_str());
    }

    R reward;
    Options options;
    std::vector<unigrpo_dimension> dimensions;
    std::vector<const unigrpo_dimension*> pointers;
  };

  static std::string_view view(const unigrpo_text& text) { return {text.data, static_cast<size_t>(text.size)}; }

  static Image image_of(const unigrpo_image& image) {
    return {image.pixels, image.width, image.height, image.row_stride};
  }

  static Sample sample_of(const unigrpo_sample& in) {
    Sample out;
    out.id = view(in.id);
    out.prompt = view(in.prompt);
    out.metadata_json = view(in.metadata_json);
    out.group = in.group;
    for (uint64_t i = 0; i < in.num_segments; ++i) {
      const unigrpo_segment& from = *in.segments[i];
      Segment segment;
      segment.kind = static_cast<Segment::Kind>(from.kind);
      segment.text = view(from.text);
      segment.num_tokens = from.num_tokens;
      segment.finished = from.finished != 0;
      if (from.image != nullptr) segment.image = image_of(*from.image);
      out.segments.push_back(segment);
    }
    for (uint64_t i = 0; i < in.num_images; ++i) out.images.push_back(image_of(*in.images[i]));
    return out;
  }

  template <typename Work>
  static int32_t guarded(char* error, uint64_t error_size, Work work) {
    try {
      work();
      return 0;
    } catch (const std::exception& cause) {
      std::snprintf(error, error_size, "%s", cause.what());
    } catch (...) {
      std::snprintf(error, error_size, "threw something that is no std::exception");
    }
    return 1;
  }
};

}  // namespace sdk_v1
}  // namespace unigrpo

/// Exports a class derived from unigrpo::Reward with a constructor that takes `const unigrpo::Settings&`. Once a
/// library, outside of any namespace.
#define UNIGRPO_REWARD_PLUGIN(RewardClass, name)                                                        \
  const unigrpo_reward_plugin unigrpo_reward_plugin_table = {UNIGRPO_REWARD_PLUGIN_HEADER,              \
                                                             name,                                      \
                                                             UNIGRPO_SDK_VERSION,                       \
                                                             &unigrpo::RewardGlue<RewardClass>::create, \
                                                             &unigrpo::RewardGlue<RewardClass>::score,  \
                                                             &unigrpo::RewardGlue<RewardClass>::destroy};
