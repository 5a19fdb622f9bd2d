#include "reward/builtin/answer.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "base/error.h"
#include "io/json.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

/// The answers that count. Throws BadInput for a row that has none.
std::vector<std::string> right_answers(const std::string& metadata_json) {
  const nlohmann::json row = io::parse_json(metadata_json, "metadata");
  if (!row.is_object() || !row.contains("metadata") || !row["metadata"].is_object() ||
      !row["metadata"].contains("answer")) {
    throw BadInput("'metadata.answer' is missing");
  }
  const nlohmann::json& answer = row["metadata"]["answer"];
  const auto list = answer.is_array() ? answer : nlohmann::json::array({answer});
  std::vector<std::string> answers;
  for (const auto& text : list) {
    if (!text.is_string() || answer_of(text.get<std::string>()).empty()) {
      throw BadInput("'metadata.answer' must be a text or a list of texts, none blank");
    }
    answers.push_back(answer_of(text.get<std::string>()));
  }
  if (answers.empty()) throw BadInput("'metadata.answer' is an empty list");
  return answers;
}

class AnswerReward : public Reward {
 public:
  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, &AnswerReward::score_one);
  }

  std::string missing_metadata(const std::string& metadata_json) const override {
    return complaint_of([&] { right_answers(metadata_json); });
  }

 private:
  static Score score_one(const data::Sample& sample) {
    const auto right = right_answers(sample.metadata_json);
    const auto text = std::find_if(sample.segments.rbegin(), sample.segments.rend(),
                                   [](const auto& segment) { return segment.kind == data::SegmentKind::text; });
    if (text == sample.segments.rend()) return {.value = std::nullopt, .reason = "no text", .parts = {}};
    if (!text->finished) return {.value = 0.0, .reason = "the text did not end", .parts = {}};
    const std::string given = answer_of(text->text);
    if (std::find(right.begin(), right.end(), given) != right.end()) return {.value = 1.0, .reason = "", .parts = {}};
    return {.value = 0.0, .reason = fmt::format("answered '{}', expected '{}'", given, right.front()), .parts = {}};
  }
};

}  // namespace

std::string answer_of(std::string_view text) {
  constexpr std::string_view kThought = "</think>", kBlank = " \t\r\n";
  if (const size_t thought = text.rfind(kThought); thought != std::string_view::npos) {
    text.remove_prefix(thought + kThought.size());
  }
  const auto trim = [&] {
    const size_t first = text.find_first_not_of(kBlank);
    if (first == std::string_view::npos) {
      text = {};
      return;
    }
    text = text.substr(first, text.find_last_not_of(kBlank) - first + 1);
  };
  trim();
  if (text.ends_with('.')) text.remove_suffix(1);
  trim();
  std::string answer(text);
  std::transform(answer.begin(), answer.end(), answer.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
  return answer;
}

std::unique_ptr<Reward> make_answer_reward() { return std::make_unique<AnswerReward>(); }

}  // namespace unigrpo::reward
