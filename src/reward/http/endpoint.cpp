#include "reward/http/endpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/enum_names.h"
#include "base/error.h"
#include "base/left_behind.h"
#include "base/text.h"
#include "base/utf8.h"
#include "io/base64.h"
#include "io/image_codec.h"
#include "io/json.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

std::string key_of(const EndpointConfig& config) {
  if (config.key_env.empty()) return "";
  const char* key = std::getenv(config.key_env.c_str());
  if (key == nullptr || *key == '\0') {
    throw BadInput("the environment variable {} (http.key_env) is not set", config.key_env);
  }
  return key;
}

io::ImageFormat codec_of(HttpImageFormat format) {
  switch (format) {
    case HttpImageFormat::jpeg:
      return io::ImageFormat::jpeg;
    case HttpImageFormat::webp:
      return io::ImageFormat::webp;
    case HttpImageFormat::png:
      break;
  }
  return io::ImageFormat::png;
}

std::string base64_of(const Image& image, HttpImageFormat format) {
  return io::base64_encode(io::encode_image(image, codec_of(format)));
}

void hide_key(const io::HttpClient& client, nlohmann::json& json) {
  if (json.is_string()) {
    json = client.without_key(json.get<std::string>());
  } else if (json.is_array()) {
    for (auto& item : json) hide_key(client, item);
  } else if (json.is_object()) {
    auto hidden = nlohmann::json::object();
    for (auto& [name, value] : json.items()) {
      hide_key(client, value);
      hidden[client.without_key(name)] = std::move(value);
    }
    json = std::move(hidden);
  }
}

/// Where there are bytes that are no UTF-8 and an answer all the same, they are replaced; else what is told is theirs.
nlohmann::json parsed(const std::string& body) {
  try {
    return parse_reply(body, "the answer");
  } catch (const BadInput&) {
    if (is_valid_utf8(body)) throw;
    try {
      return parse_reply(valid_utf8(body), "the answer");
    } catch (const BadInput&) {
    }
    throw;
  }
}

}  // namespace

io::HttpClient make_client(const EndpointConfig& config, StopToken stop) {
  io::HttpClient client({.url = config.url,
                         .key = key_of(config),
                         .ca_file = config.ca_file,
                         .timeout_s = config.timeout_s,
                         .max_tries = static_cast<int>(config.max_tries),
                         .max_concurrent = static_cast<int>(config.max_concurrent),
                         .allow_plain_http = config.allow_plain_http,
                         .use_proxy = config.use_proxy,
                         .stop = stop});
  if (!config.probe) return client;
  if (const std::string silence = client.probe(); !silence.empty()) {
    if (stop.requested()) throw Interrupted(fmt::format("{}: {} was being asked for", stop.signal(), config.url));
    throw BadInput("http.url: nobody answers at {}: {}; http.probe = false starts all the same", config.url, silence);
  }
  return client;
}

nlohmann::json parse_reply(std::string_view text, std::string_view what) {
  return io::parse_json(text, what, {.max_depth = 32, .max_values = 200'000});
}

nlohmann::json parse_answer(const io::HttpClient& client, const std::string& body) {
  nlohmann::json answer = parsed(body);
  hide_key(client, answer);
  return answer;
}

std::string to_text(const nlohmann::json& request) {
  return request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

nlohmann::json image_json(const Image& image, HttpImageFormat format) {
  return {{"format", enum_name(format)},
          {"width", image.width},
          {"height", image.height},
          {"data", base64_of(image, format)}};
}

std::string data_url(const Image& image, HttpImageFormat format) {
  return fmt::format("data:image/{};base64,{}", enum_name(format), base64_of(image, format));
}

std::string unfit(const data::Sample& sample) {
  const bool whole = std::ranges::all_of(sample.images, [](const auto& image) { return is_whole(*image); }) &&
                     std::ranges::all_of(sample.segments, [](const data::SampleSegment& segment) {
                       return segment.kind != data::SegmentKind::image || is_whole(segment.image);
                     });
  const bool has_clip = std::ranges::any_of(
      sample.segments, [](const data::SampleSegment& segment) { return segment.kind == data::SegmentKind::av; });
  if (has_clip) return "a clip, which no judge over HTTP is sent";
  return whole ? "" : "an image is empty";
}

std::string shortened(std::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return std::string(text);
  return std::string(text.substr(0, valid_utf8_prefix(text.substr(0, max_bytes)))) + "...";
}

Score score_of(double number, const JudgeConfig& config) {
  if (!(number >= config.min_number && number <= config.max_number)) {
    return {.value = std::nullopt,
            .reason = fmt::format("the judge's number {} is not within {} and {} (http.min_number, max_number)", number,
                                  config.min_number, config.max_number),
            .parts = {}};
  }
  return {.value = config.scale * number + config.offset, .reason = "", .parts = {}};
}

}  // namespace unigrpo::reward
