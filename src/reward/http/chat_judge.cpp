#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "reward/http/endpoint.h"
#include "reward/http/judges.h"
#include "reward/http/reply_number.h"

namespace unigrpo::reward {
namespace {

using Json = nlohmann::json;

std::string texts_of(const data::Sample& sample) {
  std::string texts;
  for (const data::SampleSegment& segment : sample.segments) {
    if (segment.kind != data::SegmentKind::text) continue;
    if (!texts.empty()) texts += "\n\n";
    texts += segment.text;
  }
  return texts;
}

/// Fills a template's placeholders in one pass, so that a sample's text cannot bring in others. Braces around anything
/// else stay.
std::string filled(std::string_view message, const data::Sample& sample) {
  const std::array<std::pair<std::string_view, std::string>, 3> values = {
      std::pair{"{prompt}", sample.prompt}, {"{text}", texts_of(sample)}, {"{metadata}", sample.metadata_json}};
  std::string out;
  while (!message.empty()) {
    const auto* found =
        std::ranges::find_if(values, [&](const auto& value) { return message.starts_with(value.first); });
    if (found != values.end()) {
      out += found->second;
      message.remove_prefix(found->first.size());
    } else {
      out += message.front();
      message.remove_prefix(1);
    }
  }
  return out;
}

/// The prompt's images, then the sample's, in order.
std::vector<const Image*> images_of(const data::Sample& sample) {
  std::vector<const Image*> images;
  for (const auto& image : sample.images) images.push_back(image.get());
  for (const data::SampleSegment& segment : sample.segments) {
    if (segment.kind == data::SegmentKind::image) images.push_back(&segment.image);
  }
  return images;
}

/// What the judge wrote: choices[0].message.content. Throws BadInput where there is none.
std::string reply_in(const Json& answer) {
  static const Json::json_pointer kContent("/choices/0/message/content");
  const bool has_reply = answer.is_object() && answer.contains("choices") && answer["choices"].is_array() &&
                         answer.contains(kContent) && answer.at(kContent).is_string();
  if (!has_reply) throw BadInput("the answer has no text at choices[0].message.content");
  return answer.at(kContent).get<std::string>();
}

class ChatJudge : public Reward {
 public:
  ChatJudge(const EndpointConfig& endpoint, const JudgeConfig& judge, StopToken stop)
      : image_format_(endpoint.image_format),
        config_(judge),
        number_(config_.score_pointer.empty() ? number_by_pattern(config_.score_regex)
                                              : number_at_pointer(config_.score_pointer)),
        client_(make_client(endpoint, stop)) {}

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores(samples.size());
    std::vector<size_t> asked;
    for (size_t n = 0; n < samples.size(); ++n) {
      scores[n].reason = unfit(samples[n]);
      if (scores[n].reason.empty()) asked.push_back(n);
    }
    const auto replies = client_.post(asked.size(), [&](size_t i) { return request(samples[asked[i]]); });
    for (size_t i = 0; i < asked.size(); ++i) scores[asked[i]] = read(replies[i]);
    return scores;
  }

  void new_step() override { client_.new_step(); }

 private:
  std::string request(const data::Sample& sample) const {
    Json messages = Json::array();
    if (!config_.system.empty()) messages.push_back({{"role", "system"}, {"content", config_.system}});
    messages.push_back({{"role", "user"}, {"content", content_of(sample)}});
    return to_text({{"model", config_.model},
                    {"messages", std::move(messages)},
                    {"max_tokens", config_.max_tokens},
                    {"temperature", config_.temperature},
                    {"stream", false}});
  }

  /// A plain text where there are no images: servers of text models know nothing else.
  Json content_of(const data::Sample& sample) const {
    std::string text = filled(config_.message_template, sample);
    const auto images = images_of(sample);
    if (images.empty()) return text;
    Json content = Json::array({{{"type", "text"}, {"text", std::move(text)}}});
    for (const Image* image : images) {
      content.push_back({{"type", "image_url"}, {"image_url", {{"url", data_url(*image, image_format_)}}}});
    }
    return content;
  }

  Score read(const io::HttpReply& reply) const {
    Score score;
    std::string text;
    try {
      if (!reply.failure.empty()) throw BadInput("{}", reply.failure);
      text = reply_in(parse_answer(client_, reply.body));
      score = score_of(number_->in(text), config_);
    } catch (const BadInput& error) {
      score.reason = error.what();
    }
    if (!text.empty()) score.notes["reply"] = shortened(text, kMaxNoteBytes);
    return score;
  }

  HttpImageFormat image_format_;
  JudgeConfig config_;
  std::unique_ptr<ReplyNumber> number_;
  io::HttpClient client_;
};

}  // namespace

std::unique_ptr<Reward> make_chat_judge(const EndpointConfig& endpoint, const JudgeConfig& judge, StopToken stop) {
  return std::make_unique<ChatJudge>(endpoint, judge, stop);
}

}  // namespace unigrpo::reward
