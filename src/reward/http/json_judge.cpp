#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "data/segment_json.h"
#include "io/json.h"
#include "reward/http/endpoint.h"
#include "reward/http/judges.h"

namespace unigrpo::reward {
namespace {

using Json = nlohmann::json;
using Batch = std::vector<size_t>;  // indices of samples

constexpr size_t kMaxParts = 32;
constexpr size_t kMaxNotes = 16;

Json sample_json(const data::Sample& sample, HttpImageFormat format) {
  Json images = Json::array(), segments = Json::array();
  for (const auto& image : sample.images) images.emplace_back(image_json(*image, format));
  for (const data::SampleSegment& segment : sample.segments) {
    if (segment.kind == data::SegmentKind::image) {
      segments.emplace_back(data::image_segment_json(image_json(segment.image, format)));
    } else {
      segments.emplace_back(data::text_segment_json(segment.text, segment.num_tokens, segment.finished));
    }
  }
  return {{"id", sample.id},
          {"group", sample.group},
          {"prompt", sample.prompt},
          {"images", std::move(images)},
          {"segments", std::move(segments)},
          {"metadata", io::parse_json(sample.metadata_json, "metadata")}};
}

/// The samples that can be sent, at most `size` a batch; with `whole_groups` a batch is closed at the end of the group
/// that fills it.
std::vector<Batch> batches_of(std::span<const data::Sample> samples, size_t size, bool whole_groups) {
  std::map<int64_t, Batch> groups;  // by the group, or each sample by itself
  std::vector<int64_t> order;
  for (size_t n = 0; n < samples.size(); ++n) {
    if (!unfit(samples[n]).empty()) continue;
    const int64_t key = whole_groups ? samples[n].group : static_cast<int64_t>(n);
    if (groups[key].empty()) order.push_back(key);
    groups[key].push_back(n);
  }
  std::vector<Batch> batches;
  for (const int64_t key : order) {
    if (batches.empty() || batches.back().size() >= size) batches.emplace_back();
    batches.back().insert(batches.back().end(), groups[key].begin(), groups[key].end());
  }
  return batches;
}

bool is_metric_name(std::string_view text) {
  return !text.empty() && text.size() <= 100 && std::ranges::all_of(text, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-' ||
           c == '.';
  });
}

/// A text of an object; empty where it has none. Throws BadInput for anything else under that name.
std::string text_in(const Json& object, const char* name, size_t max_bytes) {
  const auto found = object.find(name);
  if (found == object.end() || found->is_null()) return "";
  if (!found->is_string()) throw BadInput("'{}' is no text", name);
  return shortened(found->get_ref<const std::string&>(), max_bytes);
}

void read_parts(const Json& parts, Score& score) {
  if (!parts.is_object() || parts.size() > kMaxParts) {
    throw BadInput("'parts' is no object of at most {} numbers", kMaxParts);
  }
  for (const auto& [name, value] : parts.items()) {
    if (!is_metric_name(name)) throw BadInput("'parts': {} is no name of letters, digits and _ - .", in_quotes(name));
    if (value.is_number()) {
      score.parts[name] = value.get<double>();
    } else if (value.is_null() || value.is_string()) {
      score.missing[name] =
          value.is_null() ? "the judge gave none" : shortened(value.get_ref<const std::string&>(), kMaxReasonBytes);
    } else {
      throw BadInput("'parts': {} is neither a number nor a reason why there is none", in_quotes(name));
    }
  }
}

void read_notes(const Json& notes, Score& score) {
  if (!notes.is_object() || notes.size() > kMaxNotes)
    throw BadInput("'notes' is no object of at most {} texts", kMaxNotes);
  for (const auto& [name, value] : notes.items()) {
    if (!is_metric_name(name) || !value.is_string())
      throw BadInput("'notes': {} is no name with a text", in_quotes(name));
    score.notes[name] = shortened(value.get_ref<const std::string&>(), kMaxNoteBytes);
  }
}

/// One entry of "scores". Throws BadInput where it is not as documented.
Score read_score(const Json& entry, const std::string& id, const JudgeConfig& config) {
  if (entry.is_number()) return score_of(entry.get<double>(), config);
  if (!entry.is_object()) throw BadInput("expected a number or an object");
  if (const auto named = entry.find("id"); named != entry.end() && *named != id)
    throw BadInput("it is of another sample");
  const auto number = entry.find("score");
  if (number == entry.end()) throw BadInput("'score' is missing");
  if (!number->is_number() && !number->is_null()) throw BadInput("'score' is neither a number nor null");
  const std::string reason = text_in(entry, "reason", kMaxReasonBytes);
  Score score;
  if (number->is_null()) {
    score.reason = reason.empty() ? "the judge gave no score" : reason;
  } else {
    score = score_of(number->get<double>(), config);
    if (score.value) score.reason = reason;
  }
  if (entry.contains("parts")) read_parts(entry["parts"], score);
  if (entry.contains("notes")) read_notes(entry["notes"], score);
  return score;
}

class JsonJudge : public Reward {
 public:
  JsonJudge(std::string name, const EndpointConfig& endpoint, const JudgeConfig& judge, StopToken stop)
      : name_(std::move(name)), endpoint_(endpoint), config_(judge), client_(make_client(endpoint, stop)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores(samples.size());
    for (size_t n = 0; n < samples.size(); ++n) scores[n].reason = unfit(samples[n]);
    const auto batches = batches_of(samples, static_cast<size_t>(endpoint_.batch_size), config_.whole_groups);
    const auto replies = client_.post(batches.size(), [&](size_t b) { return request(samples, batches[b]); });
    for (size_t b = 0; b < batches.size(); ++b) read_reply(replies[b], samples, batches[b], scores);
    return scores;
  }

  void new_step() override { client_.new_step(); }
  bool wants_groups() const override { return config_.whole_groups; }

 private:
  std::string request(std::span<const data::Sample> samples, const Batch& batch) const {
    Json list = Json::array();
    for (const size_t n : batch) list.push_back(sample_json(samples[n], endpoint_.image_format));
    return to_text({{"version", 1}, {"reward", name_}, {"samples", std::move(list)}});
  }

  void read_reply(const io::HttpReply& reply, std::span<const data::Sample> samples, const Batch& batch,
                  std::vector<Score>& scores) const {
    const auto fail = [&](const std::string& why) {
      for (const size_t n : batch) scores[n] = {.value = std::nullopt, .reason = why, .parts = {}};
    };
    if (!reply.failure.empty()) return fail(reply.failure);
    Json answer;
    try {
      answer = parse_answer(client_, reply.body);
    } catch (const BadInput& error) {
      return fail(error.what());
    }
    if (!answer.is_object() || !answer.contains("scores") || !answer["scores"].is_array()) {
      return fail("the answer has no list 'scores'");
    }
    const Json& list = answer["scores"];
    if (list.size() != batch.size()) {
      return fail(fmt::format("the answer has {} scores for {} samples", list.size(), batch.size()));
    }
    for (size_t i = 0; i < batch.size(); ++i) {
      try {
        scores[batch[i]] = read_score(list[i], samples[batch[i]].id, config_);
      } catch (const BadInput& error) {
        scores[batch[i]] = {
            .value = std::nullopt, .reason = fmt::format("the answer's entry {}: {}", i, error.what()), .parts = {}};
      }
    }
  }

  std::string name_;
  EndpointConfig endpoint_;
  JudgeConfig config_;
  io::HttpClient client_;
};

}  // namespace

std::unique_ptr<Reward> make_json_judge(const std::string& name, const EndpointConfig& endpoint,
                                        const JudgeConfig& judge, StopToken stop) {
  return std::make_unique<JsonJudge>(name, endpoint, judge, stop);
}

}  // namespace unigrpo::reward
