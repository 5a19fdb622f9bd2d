#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace unigrpo::reward::plugin {

/// 8-bit RGB that belongs to someone else; pixel (x, y) is at pixels + y * row_stride + 3 * x.
struct ImageView {
  const uint8_t* pixels = nullptr;
  int32_t width = 0;
  int32_t height = 0;
  int64_t row_stride = 0;
};

struct SegmentView {
  enum class Kind { text, image };
  Kind kind = Kind::text;
  std::string text;
  int64_t num_tokens = 0;
  bool finished = true;
  ImageView image;
};

/// One episode as it crosses the border: valid UTF-8, pixels where they are.
struct SampleView {
  std::string id;
  std::string prompt;
  std::string metadata_json;
  int64_t group = 0;
  std::vector<SegmentView> segments;
  std::vector<ImageView> images;
};

struct Dimension {
  std::string name;
  double min = -std::numeric_limits<double>::infinity();
  double max = std::numeric_limits<double>::infinity();
};

/// What a plugin says of itself.
struct Description {
  std::string name;
  int64_t batch_size = 1;  // samples a call, at most
  int64_t threads = 1;     // calls at once
  bool wants_groups = false;
  std::vector<Dimension> dimensions = {{.name = "score"}};  // the first one is the main number
};

/// What a plugin says of one sample, by dimension: a value, or why there is none.
struct Verdict {
  std::vector<std::optional<double>> values;
  std::vector<std::string> reasons;
  std::map<std::string, std::string> notes;
};

/// The answer to one call: a verdict a sample, or why the whole call failed.
struct Answer {
  bool succeeded = false;  // of its own: what a plugin says of a failure may be empty
  std::string error;
  std::vector<Verdict> verdicts;
};
Answer failed_call(std::string error);

/// A verdict on which nothing has been said yet.
Verdict open_verdict(const Description& description);
/// Enters a value, or the reason why it is refused: not finite, beyond float32, outside of the dimension's bounds.
void enter_value(Verdict& verdict, const Description& description, size_t dimension, double value);
/// Enters the reason why there is no value, cut to 4 KiB.
void enter_missing(Verdict& verdict, size_t dimension, std::string_view reason);
/// Enters a note, cut to 4 KiB; those beyond the 32nd are dropped.
void enter_note(Verdict& verdict, std::string_view name, std::string_view text);
inline constexpr int64_t kMaxDimensions = 64;
/// Throws BadInput for a description that cannot be kept to (no name, a dimension twice, batch_size 0).
void check_description(const Description& description);

/// Something that scores one batch: a worker process, or a library in this one.
class Judge {
 public:
  virtual ~Judge() = default;
  virtual const Description& description() const = 0;
  /// Does not throw for what the plugin does wrong: that is Answer::error.
  virtual Answer score(std::span<const SampleView> samples) = 0;
};

}  // namespace unigrpo::reward::plugin
