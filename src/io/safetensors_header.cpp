#include "io/safetensors_header.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/text.h"
#include "io/json.h"

namespace unigrpo::io {
namespace {

constexpr uint64_t kMaxDimension = (uint64_t{1} << 48) - 1;
constexpr size_t kMaxRank = 1024;
constexpr size_t kMaxMetadata = 100'000;

// Follows the events of a header and keeps only what a tensor list needs: a tree of a hostile
// 100 MB header would take gigabytes.
class HeaderReader final : public JsonEvents {
 public:
  explicit HeaderReader(const std::string& where) : where_(where) {}
  Header header;

  void start_object() override {
    if (place_ == Place::root) {
      place_ = Place::names;
    } else if (place_ == Place::names) {
      start_entry();
    } else {
      start_nested("an object");
    }
  }

  void end_object() override {
    if (place_ == Place::ignored) {
      end_nested();
    } else if (place_ == Place::entry) {
      end_entry();
      place_ = Place::names;
    } else {  // metadata, or the root itself
      place_ = Place::names;
    }
  }

  void start_array() override {
    if (place_ == Place::entry && (field_ == Field::shape || field_ == Field::data_offsets)) {
      place_ = Place::numbers;
    } else {
      start_nested("an array");
    }
  }

  void end_array() override {
    if (place_ == Place::ignored) {
      end_nested();
      return;
    }
    place_ = Place::entry;
    if (field_ == Field::data_offsets && numbers_.size() != 2) {
      fail_entry("data_offsets must be two integers [begin, end], got {}", numbers_.size());
    }
    if (field_ == Field::shape) {
      entry_.view.shape.assign(numbers_.begin(), numbers_.end());
    } else {
      entry_.begin = numbers_[0];
      entry_.end = numbers_[1];
    }
  }

  void key(std::string&& name) override {
    if (place_ == Place::names || place_ == Place::metadata) {
      name_ = std::move(name);
    } else if (place_ == Place::entry) {
      field_ = name == "dtype"          ? Field::dtype
               : name == "shape"        ? Field::shape
               : name == "data_offsets" ? Field::data_offsets
                                        : Field::other;
      if (field_ != Field::other) seen_[static_cast<size_t>(field_)] = true;
      numbers_.clear();
    }
  }

  void string(std::string&& value) override {
    if (place_ == Place::metadata) {
      if (header.metadata.size() == kMaxMetadata) {
        throw BadInput("{}: __metadata__ has more than {} entries", where_, kMaxMetadata);
      }
      header.metadata.emplace(std::move(name_), std::move(value));
    } else if (place_ == Place::entry && field_ == Field::dtype) {
      const auto dtype = enum_value<DType>(value);
      if (!dtype) {
        fail_entry("dtype {} is not known, expected {}", in_quotes(value), enum_choices<DType>());
      }
      entry_.view.dtype = *dtype;
    } else {
      scalar("a string");
    }
  }

  void unsigned_integer(uint64_t value) override {
    if (place_ != Place::numbers) return scalar("a number");
    if (field_ == Field::shape && value > kMaxDimension) {
      fail_entry("shape has dimension {}, at most 2^48 - 1 is allowed", value);
    }
    if (numbers_.size() == kMaxRank) fail_entry("{} has more than {} numbers", field(), kMaxRank);
    numbers_.push_back(value);
  }

  void negative_integer(int64_t value) override {
    if (place_ == Place::numbers) fail_entry("{} holds the negative number {}", field(), value);
    scalar("a number");
  }
  void real(double value) override {
    if (place_ == Place::numbers) fail_entry("{} holds {}, not an integer", field(), value);
    scalar("a number");
  }
  void boolean(bool) override { scalar("true or false"); }
  void null() override { scalar("null"); }

 private:
  enum class Place { root, names, metadata, entry, numbers, ignored };
  enum class Field { dtype, shape, data_offsets, other };

  template <typename... Args>
  [[noreturn]] void fail_entry(fmt::format_string<Args...> format, Args&&... args) const {
    throw BadInput("{}: tensor {}: {}", where_, in_quotes(name_), fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view field() const {
    return field_ == Field::shape ? "shape" : field_ == Field::dtype ? "dtype" : "data_offsets";
  }

  void start_entry() {
    if (name_ == kMetadataKey) {
      place_ = Place::metadata;
      return;
    }
    place_ = Place::entry;
    entry_ = {};
    seen_ = {};
  }

  void end_entry() {
    for (size_t i = 0; i < seen_.size(); ++i) {
      field_ = static_cast<Field>(i);
      if (!seen_[i]) fail_entry("{} is missing", field());
    }
    entry_.view.name = std::move(name_);
    header.entries.push_back(std::move(entry_));
  }

  // An object or array at a place that does not call for one, or inside a field that is not ours.
  void start_nested(std::string_view what) {
    scalar(what);
    place_ = Place::ignored;
    ++ignored_depth_;
  }

  void end_nested() {
    if (--ignored_depth_ == 0) place_ = Place::entry;
  }

  // Every place where a value other than the expected one stands; returns where it may stand.
  void scalar(std::string_view what) const {
    switch (place_) {
      case Place::root:
        throw BadInput("{}: JSON must be an object, got {}", where_, what);
      case Place::names:
        if (name_ == kMetadataKey) {
          throw BadInput("{}: __metadata__ must be an object of strings, got {}", where_, what);
        }
        fail_entry("must be an object with dtype, shape and data_offsets, got {}", what);
      case Place::metadata:
        throw BadInput("{}: __metadata__ must map strings to strings, {} is {}", where_, in_quotes(name_), what);
      case Place::numbers:
        fail_entry("{} must hold integers only, got {}", field(), what);
      case Place::entry:
        if (field_ == Field::dtype) fail_entry("dtype must be a string, got {}", what);
        if (field_ != Field::other) {
          fail_entry("{} must be an array of integers, got {}", field(), what);
        }
        return;
      case Place::ignored:
        return;
    }
  }

  const std::string& where_;
  Place place_ = Place::root;
  Field field_ = Field::other;
  std::string name_;
  HeaderEntry entry_;
  std::array<bool, 3> seen_{};  // by Field
  std::vector<uint64_t> numbers_;
  int ignored_depth_ = 0;
};

}  // namespace

Header read_header(std::string_view text, const std::string& where) {
  if (!text.starts_with('{')) {
    throw BadInput("{}: JSON object expected: the first byte must be '{{', found {}", where,
                   text.empty() ? "nothing" : in_quotes(text.substr(0, 1)));
  }
  // Other white space after the object is legal JSON, but the format pads with spaces only.
  const size_t last = text.find_last_not_of(' ');
  const std::string_view object = text.substr(0, last + 1);
  if (object.back() == '\n' || object.back() == '\r' || object.back() == '\t') {
    throw BadInput("{}: JSON is padded with {}, only spaces are allowed", where, in_quotes(object.substr(last)));
  }
  HeaderReader reader(where);
  read_json(object, where, {.max_depth = 16, .max_values = 4'000'000}, reader);
  return std::move(reader.header);
}

std::optional<uint64_t> tensor_bytes(const std::vector<int64_t>& shape, DType dtype) {
  uint64_t product = dtype_size(dtype);
  bool empty = false;
  for (const int64_t dimension : shape) {
    const auto factor = static_cast<uint64_t>(dimension);
    if (factor == 0) {
      empty = true;  // the rest must still not overflow: somebody may multiply in another order
    } else if (product > std::numeric_limits<uint64_t>::max() / factor) {
      return std::nullopt;
    } else {
      product *= factor;
    }
  }
  return empty ? 0 : product;
}

}  // namespace unigrpo::io
