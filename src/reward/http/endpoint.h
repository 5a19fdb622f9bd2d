#pragma once

#include <cstddef>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "data/sample.h"
#include "io/http_client.h"
#include "io/image.h"
#include "reward/http/config.h"
#include "reward/score.h"

/// What everything that asks over HTTP has in common.
namespace unigrpo::reward {

/// The client of a service; the key comes from the environment. Throws BadInput where that has none, and, unless
/// config.probe is off, where nobody answers at the address; Interrupted where a stop was asked for meanwhile.
io::HttpClient make_client(const EndpointConfig& config, StopToken stop);

/// What a judge says as JSON, at most 32 levels deep. Throws BadInput "<what>: invalid JSON: ...".
nlohmann::json parse_reply(std::string_view text, std::string_view what);
/// An answer's body, with the client's key taken out of every text and name, however it was escaped. Bytes that are no
/// UTF-8 become U+FFFD.
nlohmann::json parse_answer(const io::HttpClient& client, const std::string& body);

/// A request as text; what is not UTF-8 in a sample becomes U+FFFD.
std::string to_text(const nlohmann::json& request);

/// {"format", "width", "height", "data"}: the image's file in base64.
nlohmann::json image_json(const Image& image, HttpImageFormat format);
/// "data:image/png;base64,...".
std::string data_url(const Image& image, HttpImageFormat format);

/// Why a sample cannot be sent; empty where it can.
std::string unfit(const data::Sample& sample);

/// What is kept of a judge's texts, bytes.
inline constexpr size_t kMaxReasonBytes = 1000, kMaxNoteBytes = 4000;

/// The text, cut after at most `max_bytes` at the end of a character, with "..." then.
std::string shortened(std::string_view text, size_t max_bytes);

/// scale * number + offset, or no score where the number is out of bounds.
Score score_of(double number, const JudgeConfig& config);

}  // namespace unigrpo::reward
