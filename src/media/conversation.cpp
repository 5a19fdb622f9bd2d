#include "media/conversation.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"

namespace unigrpo::media {
namespace {

using nlohmann::json;

struct Lengths {
  uint64_t text = 0, pixels = 0, samples = 0;  // bytes
};

void write_message(SharedMemory& memory, const std::string& text, const Clip& clip) {
  const Lengths lengths = {text.size(), clip.frames.pixels.size(), clip.sound.samples.size() * sizeof(float)};
  memory.reserve(sizeof lengths + lengths.text + lengths.pixels + lengths.samples);
  std::byte* at = memory.bytes().data();
  const auto put = [&](const void* bytes, size_t size) {
    if (size > 0) std::memcpy(at, bytes, size);
    at += size;
  };
  put(&lengths, sizeof lengths);
  put(text.data(), text.size());
  put(clip.frames.pixels.data(), lengths.pixels);
  put(clip.sound.samples.data(), lengths.samples);
}

struct Message {
  std::string text;
  std::span<const std::byte> pixels, samples;
};

Message read_message(std::span<const std::byte> memory) {
  Lengths lengths;
  if (memory.size() < sizeof lengths) throw BadInput("the answer is too short");
  std::memcpy(&lengths, memory.data(), sizeof lengths);
  memory = memory.subspan(sizeof lengths);
  const auto take = [&](uint64_t size) {
    if (size > memory.size()) throw BadInput("the answer is too short");
    const auto part = memory.first(size);
    memory = memory.subspan(size);
    return part;
  };
  const auto text = take(lengths.text);
  Message message = {
      .text = std::string(reinterpret_cast<const char*>(text.data()), text.size()), .pixels = {}, .samples = {}};
  message.pixels = take(lengths.pixels);
  message.samples = take(lengths.samples);
  return message;
}

json of(const Rational& rate) { return {rate.num, rate.den}; }
Rational rational(const json& value) {
  const Rational rate = {value.at(0).get<int64_t>(), value.at(1).get<int64_t>()};
  if (rate.den <= 0 || rate.num < 0) throw BadInput("the answer holds no rate");
  return rate;
}

json of(const VideoInfo& info) {
  return {{"codec", info.codec},
          {"pixel_format", info.pixel_format},
          {"width", info.width},
          {"height", info.height},
          {"coded_width", info.coded_width},
          {"coded_height", info.coded_height},
          {"sample_aspect", of(info.sample_aspect)},
          {"rotation", info.rotation},
          {"num_packets", info.num_packets},
          {"num_bytes", info.num_bytes},
          {"start_s", info.start_s},
          {"seconds", info.seconds},
          {"fps_average", of(info.fps_average)},
          {"fps_real", of(info.fps_real)},
          {"constant_rate", info.constant_rate},
          {"hdr", info.hdr}};
}

VideoInfo video_info(const json& value) {
  return {.codec = value.at("codec"),
          .pixel_format = value.at("pixel_format"),
          .width = value.at("width"),
          .height = value.at("height"),
          .coded_width = value.at("coded_width"),
          .coded_height = value.at("coded_height"),
          .sample_aspect = rational(value.at("sample_aspect")),
          .rotation = value.at("rotation"),
          .num_packets = value.at("num_packets"),
          .num_bytes = value.at("num_bytes"),
          .start_s = value.at("start_s"),
          .seconds = value.at("seconds"),
          .fps_average = rational(value.at("fps_average")),
          .fps_real = rational(value.at("fps_real")),
          .constant_rate = value.at("constant_rate"),
          .hdr = value.at("hdr")};
}

json of(const AudioInfo& info) {
  return {{"codec", info.codec},     {"layout", info.layout},           {"channels", info.channels},
          {"rate", info.rate},       {"num_packets", info.num_packets}, {"num_bytes", info.num_bytes},
          {"start_s", info.start_s}, {"seconds", info.seconds}};
}

AudioInfo audio_info(const json& value) {
  return {.codec = value.at("codec"),
          .layout = value.at("layout"),
          .channels = value.at("channels"),
          .rate = value.at("rate"),
          .num_packets = value.at("num_packets"),
          .num_bytes = value.at("num_bytes"),
          .start_s = value.at("start_s"),
          .seconds = value.at("seconds")};
}

json of(const ReadResult& result) {
  json value = {{"container", result.info.container},
                {"seconds", result.info.seconds},
                {"tags", result.info.tags},
                {"notes", result.notes}};
  if (result.info.video) value["video"] = of(*result.info.video);
  if (result.info.audio) value["audio"] = of(*result.info.audio);
  const Clip& clip = result.clip;
  value["frames"] = {clip.frames.count, clip.frames.height, clip.frames.width};
  value["fps"] = of(clip.fps);
  value["sound"] = {clip.sound.channels, clip.sound.rate};
  return value;
}

ReadResult result_of(const json& value, const Message& message) {
  ReadResult result;
  result.info.container = value.at("container");
  result.info.seconds = value.at("seconds");
  result.info.tags = value.at("tags").get<std::map<std::string, std::string>>();
  result.notes = value.at("notes").get<std::vector<std::string>>();
  if (value.contains("video")) result.info.video = video_info(value["video"]);
  if (value.contains("audio")) result.info.audio = audio_info(value["audio"]);
  Frames& frames = result.clip.frames;
  frames.count = value.at("frames").at(0);
  frames.height = value.at("frames").at(1);
  frames.width = value.at("frames").at(2);
  Sound& sound = result.clip.sound;
  sound.channels = value.at("sound").at(0);
  sound.rate = value.at("sound").at(1);
  constexpr int kMaxSide = 1 << 14;
  if (frames.count < 0 || frames.height < 0 || frames.width < 0 || frames.height > kMaxSide ||
      frames.width > kMaxSide || static_cast<uint64_t>(frames.count) > message.pixels.size() ||
      message.pixels.size() != frames.frame_bytes() * static_cast<size_t>(frames.count) || sound.channels < 0 ||
      sound.rate < 0 || sound.channels > 2 ||
      message.samples.size() % (sizeof(float) * std::max(sound.channels, 1)) != 0) {
    throw BadInput("the answer's pictures or sound do not fit what it says of them");
  }
  result.clip.fps = rational(value.at("fps"));
  frames.pixels.resize(message.pixels.size());
  if (!message.pixels.empty()) std::memcpy(frames.pixels.data(), message.pixels.data(), message.pixels.size());
  sound.samples.resize(message.samples.size() / sizeof(float));
  if (!message.samples.empty()) std::memcpy(sound.samples.data(), message.samples.data(), message.samples.size());
  return result;
}

}  // namespace

void write_request(SharedMemory& memory, const Request& request) {
  const ReadOptions& options = request.options;
  const json value = {{"name", request.name},
                      {"video", static_cast<int>(options.video)},
                      {"audio", static_cast<int>(options.audio)},
                      {"fps", of(options.fps)},
                      {"sample_rate", options.sample_rate},
                      {"max_side", options.max_side},
                      {"start_s", options.start_s},
                      {"max_seconds", options.max_seconds},
                      {"min_seconds", options.min_seconds},
                      {"allow_hdr", options.allow_hdr},
                      {"decode", options.decode},
                      {"max_bytes", options.max_bytes}};
  // A file's name may be no UTF-8.
  write_message(memory, value.dump(-1, ' ', false, json::error_handler_t::replace), {});
}

Request read_request(std::span<const std::byte> memory) {
  const json value = json::parse(read_message(memory).text);
  return {.name = value.at("name"),
          .options = {.video = static_cast<Want>(value.at("video").get<int>()),
                      .audio = static_cast<Want>(value.at("audio").get<int>()),
                      .fps = rational(value.at("fps")),
                      .sample_rate = value.at("sample_rate"),
                      .max_side = value.at("max_side"),
                      .start_s = value.at("start_s"),
                      .max_seconds = value.at("max_seconds"),
                      .min_seconds = value.at("min_seconds"),
                      .allow_hdr = value.at("allow_hdr"),
                      .decode = value.at("decode"),
                      .max_bytes = value.at("max_bytes")}};
}

void write_response(SharedMemory& memory, const Response& response) {
  json value = {{"refusal", response.refusal}, {"failure", response.failure}};
  if (response.result) value["result"] = of(*response.result);
  write_message(memory, value.dump(-1, ' ', false, json::error_handler_t::replace),
                response.result ? response.result->clip : Clip{});
}

Response read_response(std::span<const std::byte> memory) try {
  const Message message = read_message(memory);
  const json value = json::parse(message.text);
  Response response = {.result = {}, .refusal = value.at("refusal"), .failure = value.at("failure")};
  if (value.contains("result")) response.result = result_of(value["result"], message);
  return response;
} catch (const json::exception&) {
  throw BadInput("the answer is no JSON of the expected form");
}

}  // namespace unigrpo::media
