#include "reward/builtin/ocr.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#ifdef UNIGRPO_WITH_TESSERACT
#include <tesseract/baseapi.h>
#endif

#include "base/error.h"
#include "base/text.h"
#include "io/json.h"
#include "reward/builtin/scoring.h"

namespace unigrpo::reward {
namespace {

/// Without white space, ASCII letters lower.
std::string bare(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n\f\v";
  std::string out;
  for (const char c : text) {
    if (kBlank.find(c) != std::string_view::npos) continue;
    out += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  }
  return out;
}

#ifdef UNIGRPO_WITH_TESSERACT

/// `metadata.text` of the row; empty where it has none. Throws BadInput where it is no text.
std::string text_of_row(const std::string& metadata_json) {
  const nlohmann::json row = io::parse_json(metadata_json, "metadata");
  if (!row.is_object() || !row.contains("metadata") || !row["metadata"].is_object() ||
      !row["metadata"].contains("text")) {
    return "";
  }
  const nlohmann::json& text = row["metadata"]["text"];
  if (!text.is_string() || bare(text.get<std::string>()).empty()) {
    throw BadInput("'metadata.text' must be a text that is not blank");
  }
  return text.get<std::string>();
}

/// Throws BadInput for a sample that has no target.
std::string target_of(const data::Sample& sample) {
  const std::string text = text_of_row(sample.metadata_json);
  if (!text.empty()) return text;
  const size_t open = sample.prompt.find('"');
  const size_t close = open == std::string::npos ? open : sample.prompt.find('"', open + 1);
  const std::string quoted = close == std::string::npos ? "" : sample.prompt.substr(open + 1, close - open - 1);
  if (bare(quoted).empty()) throw BadInput("no text to look for: neither 'metadata.text' nor \"a text\" in the prompt");
  return quoted;
}

class OcrReward : public Reward {
 public:
  OcrReward() {
    if (reader_.Init(nullptr, "eng", tesseract::OEM_LSTM_ONLY) != 0) {
      throw BadInput("reward 'ocr': Tesseract has no English model; install tesseract-ocr-eng or set TESSDATA_PREFIX");
    }
    reader_.SetVariable("debug_file", "/dev/null");
    reader_.SetPageSegMode(tesseract::PSM_SPARSE_TEXT);  // words anywhere in an image, not a page
  }

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    return score_each(samples, [this](const data::Sample& sample) -> Score {
      const Image* image = sample.last_image();
      if (image == nullptr || !is_whole(*image)) return {.value = std::nullopt, .reason = "no image", .parts = {}};
      const std::string target = target_of(sample);
      const std::string read = text_in(*image);
      return {.value = ocr_score(read, target), .reason = "", .parts = {}, .notes = {{"read", read}}};
    });
  }

  std::string missing_metadata(const std::string& metadata_json) const override {
    return complaint_of([&] { text_of_row(metadata_json); });  // the prompt may have the text
  }

 private:
  /// Words in reading order, one space between.
  std::string text_in(const Image& image) {
    reader_.SetImage(image.pixels.data(), image.width, image.height, 3, 3 * image.width);
    reader_.SetSourceResolution(150);  // dots an inch: images say none, and Tesseract would guess and warn
    const std::unique_ptr<char[]> text(reader_.GetUTF8Text());
    if (!text) throw BadInput("Tesseract could not read the image");
    std::string words;
    for (const char c : std::string_view(text.get())) {
      const bool blank = c == ' ' || c == '\n' || c == '\f';
      if (!blank)
        words += c;
      else if (!words.empty() && words.back() != ' ')
        words += ' ';
    }
    if (words.ends_with(' ')) words.pop_back();
    return words;
  }

  tesseract::TessBaseAPI reader_;
};

#endif

}  // namespace

double ocr_score(std::string_view read, std::string_view target) {
  const std::string found = bare(read), wanted = bare(target);
  if (found.find(wanted) != std::string::npos) return 1;
  const size_t distance = std::min(edit_distance(found, wanted), wanted.size());
  return 1 - static_cast<double>(distance) / static_cast<double>(wanted.size());
}

std::unique_ptr<Reward> make_ocr_reward() {
#ifdef UNIGRPO_WITH_TESSERACT
  return std::make_unique<OcrReward>();
#else
  throw BadInput(
      "reward 'ocr': this build has no Tesseract; install libtesseract-dev and tesseract-ocr-eng, then configure "
      "and build again");
#endif
}

}  // namespace unigrpo::reward
