#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "base/error.h"
#include "reward/builtin/scoring.h"
#include "reward/http/endpoint.h"
#include "reward/http/judges.h"

namespace unigrpo::reward {
namespace {

using Json = nlohmann::json;
using Images = std::span<const Image* const>;

constexpr size_t kMaxNameBytes = 200;

std::string name_in(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_string() || found->get_ref<const std::string&>().size() > kMaxNameBytes) {
    throw BadInput("'{}' is no text of at most {} bytes", key, kMaxNameBytes);
  }
  return found->get<std::string>();
}

/// Throws BadInput for an object that is not as documented, or whose box is not within the image (by a pixel or more).
Detection read_object(const Json& object, const Image& image) {
  if (!object.is_object()) throw BadInput("expected an object");
  Detection found{.class_name = name_in(object, "class"),
                  .color = object.contains("color") ? name_in(object, "color") : ""};
  if (found.class_name.empty()) throw BadInput("'class' is empty");
  const auto confidence = object.find("confidence");
  if (confidence != object.end()) {
    found.confidence = confidence->is_number() ? confidence->get<double>() : -1;
    if (!(found.confidence >= 0 && found.confidence <= 1)) throw BadInput("'confidence' is no number from 0 to 1");
  }
  const auto box = object.find("box");
  const auto is_number = [](const Json& value) { return value.is_number(); };
  if (box == object.end() || !box->is_array() || box->size() != 4 || !std::ranges::all_of(*box, is_number)) {
    throw BadInput("'box' is no list of four numbers");
  }
  found.left = (*box)[0].get<double>();
  found.top = (*box)[1].get<double>();
  found.right = (*box)[2].get<double>();
  found.bottom = (*box)[3].get<double>();
  const bool within =
      found.left > -1 && found.top > -1 && found.right < image.width + 1.0 && found.bottom < image.height + 1.0;
  if (!within || found.left >= found.right || found.top >= found.bottom) {
    throw BadInput("'box' [{}, {}, {}, {}] is not within the {}x{} image", found.left, found.top, found.right,
                   found.bottom, image.width, image.height);
  }
  return found;
}

Detections read_image(const Json& entry, const Image& image) {
  Detections found;
  if (entry.is_string()) {
    found.failure = "the detector says: " + shortened(entry.get_ref<const std::string&>(), kMaxReasonBytes);
    return found;
  }
  if (!entry.is_array()) throw BadInput("expected a list of objects, or a text saying why there is none");
  for (const Json& object : entry) found.objects.push_back(read_object(object, image));
  return found;
}

class HttpDetector : public Detector {
 public:
  HttpDetector(const EndpointConfig& endpoint, StopToken stop)
      : config_(endpoint), client_(make_client(endpoint, stop)) {}

  std::vector<Detection> detect(const Image& image) override {
    const Image* one = &image;
    Detections found = std::move(detect_all({&one, 1}).front());
    if (!found.failure.empty()) throw RuntimeFailure("{}", found.failure);
    return std::move(found.objects);
  }

  std::vector<Detections> detect_all(Images images) override {
    const auto size = static_cast<size_t>(config_.batch_size);
    const auto batch_of = [&](size_t b) { return images.subspan(b * size, std::min(size, images.size() - b * size)); };
    const auto replies =
        client_.post((images.size() + size - 1) / size, [&](size_t b) { return request(batch_of(b)); });
    std::vector<Detections> all;
    for (size_t b = 0; b < replies.size(); ++b) {
      std::ranges::move(read_reply(replies[b], batch_of(b)), std::back_inserter(all));
    }
    return all;
  }

  void new_step() override { client_.new_step(); }

 private:
  std::string request(Images batch) const {
    Json list = Json::array();
    for (const Image* image : batch) list.push_back(image_json(*image, config_.image_format));
    return to_text({{"version", 1}, {"images", std::move(list)}});
  }

  std::vector<Detections> read_reply(const io::HttpReply& reply, Images batch) const {
    std::vector<Detections> found(batch.size());
    try {
      if (!reply.failure.empty()) throw BadInput("{}", reply.failure);
      const Json answer = parse_answer(client_, reply.body);
      const auto list = answer.find("detections");
      if (list == answer.end() || !list->is_array()) throw BadInput("the answer has no list 'detections'");
      if (list->size() != batch.size()) {
        throw BadInput("the answer has {} entries for {} images", list->size(), batch.size());
      }
      for (size_t i = 0; i < batch.size(); ++i) {
        const auto why_not = complaint_of([&] { found[i] = read_image((*list)[i], *batch[i]); });
        if (!why_not.empty())
          found[i] = {.objects = {}, .failure = fmt::format("the answer's entry {}: {}", i, why_not)};
      }
    } catch (const BadInput& error) {
      for (Detections& one : found) one.failure = fmt::format("detector: {}", error.what());
    }
    return found;
  }

  EndpointConfig config_;
  io::HttpClient client_;
};

}  // namespace

std::unique_ptr<Detector> make_remote_detector(const EndpointConfig& endpoint, StopToken stop) {
  return std::make_unique<HttpDetector>(endpoint, stop);
}

}  // namespace unigrpo::reward
