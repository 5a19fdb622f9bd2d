#include "reward/plugin/judge.h"

#include <cmath>
#include <set>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "base/utf8.h"

namespace unigrpo::reward::plugin {
namespace {

constexpr size_t kMaxTextBytes = 4096;  // of a reason or a note

}  // namespace

Answer failed_call(std::string error) {
  return {.succeeded = false, .error = error.empty() ? "failed without saying why" : std::move(error), .verdicts = {}};
}

Verdict open_verdict(const Description& description) {
  const size_t count = description.dimensions.size();
  return {.values = std::vector<std::optional<double>>(count),
          .reasons = std::vector<std::string>(count, "the plugin gave no value"),
          .notes = {}};
}

void enter_value(Verdict& verdict, const Description& description, size_t dimension, double value) {
  const Dimension& bounds = description.dimensions[dimension];
  std::string& reason = verdict.reasons[dimension];
  verdict.values[dimension].reset();
  if (!std::isfinite(value)) {
    reason = fmt::format("the score is {}", value);
  } else if (std::abs(value) > std::numeric_limits<float>::max()) {
    reason = fmt::format("the score {} is beyond float32", value);
  } else if (value < bounds.min || value > bounds.max) {
    reason = fmt::format("the score {} is outside of {} .. {}", value, bounds.min, bounds.max);
  } else {
    verdict.values[dimension] = value;
    reason.clear();
  }
}

void enter_missing(Verdict& verdict, size_t dimension, std::string_view reason) {
  verdict.values[dimension].reset();
  verdict.reasons[dimension] = reason.empty() ? "no reason given" : valid_utf8(reason, kMaxTextBytes);
}

void enter_note(Verdict& verdict, std::string_view name, std::string_view text) {
  constexpr size_t kMaxNotes = 32;
  if (verdict.notes.size() >= kMaxNotes) return;
  verdict.notes.insert_or_assign(valid_utf8(name, kMaxTextBytes), valid_utf8(text, kMaxTextBytes));
}

void check_description(const Description& description) {
  constexpr int64_t kMaxBatch = 65536, kMaxThreads = 256;
  const auto within = [](const char* what, int64_t value, int64_t max) {
    if (value < 1 || value > max) throw BadInput("it declares {} = {}, expected 1 to {}", what, value, max);
  };
  within("batch_size", description.batch_size, kMaxBatch);
  within("threads", description.threads, kMaxThreads);
  within("number of dimensions", static_cast<int64_t>(description.dimensions.size()), kMaxDimensions);
  std::set<std::string> names;
  for (const Dimension& dimension : description.dimensions) {
    const bool named = !dimension.name.empty() && dimension.name.size() <= 100 && is_valid_utf8(dimension.name);
    if (!named || !names.insert(dimension.name).second) {
      throw BadInput("it declares the dimension {}; expected names of 1 to 100 bytes, each its own",
                     in_quotes(dimension.name));
    }
    if (!(dimension.min <= dimension.max)) {
      throw BadInput("it declares {} .. {} as bounds of the dimension '{}'", dimension.min, dimension.max,
                     dimension.name);
    }
  }
}

}  // namespace unigrpo::reward::plugin
