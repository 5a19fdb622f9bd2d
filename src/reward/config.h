#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo {

namespace reward {

enum class OnError { drop_sample, drop_group, stop, retry };
enum class RewardKind {
  geneval,
  edit,
  answer,
  format,
  text_rules,
  ocr,
  jpeg,
  brightness,
  saturation,  // of this build
  http,
  plugin,  // one's own
  clip_score,
  pick_score,
  hps,
  aesthetic  // networks: scorers::ScorerKind
};
enum class GenevalMeasure { strict, soft, mixed };
enum class Drives { both, text, image };
enum class TermScale { none, running };
enum class Isolation { process, none };
enum class JpegPrefer { large, small };
enum class DetectorKind { color, http };
enum class HttpFormat { json, chat };
enum class HttpImageFormat { png, jpeg, webp };

struct HttpConfig {  // recipe: [reward.terms.http], of the term above it
  std::string url;
  std::string key_env;  // environment variable with the key; empty: none is sent
  std::string ca_file;  // PEM; empty: the system's authorities
  bool allow_plain_http = false;
  bool use_proxy = false;
  int64_t max_concurrent = 8;
  int64_t max_tries = 3;
  HttpImageFormat image_format = HttpImageFormat::png;
  HttpFormat format = HttpFormat::json;
  int64_t batch_size = 8;     // json, detector: samples (or images) a request
  bool whole_groups = false;  // json: a request holds all samples of a prompt, for judges that compare
  std::string model;          // chat, and the rest
  std::string system;
  std::string message_template;  // recipe: template
  int64_t max_tokens = 512;
  double temperature = 0;
  std::string score_pointer;
  std::string score_regex;
  double scale = 1.0;  // kind = "http": score = scale * number + offset
  double offset = 0.0;
  double min_number = -1e6;  // a number outside is no score
  double max_number = 1e6;

  bool operator==(const HttpConfig&) const = default;
};

struct TermConfig {       // recipe: [[reward.terms]]
  std::string name = {};  // metric name reward/<name>; the kind where empty
  RewardKind kind = RewardKind::geneval;
  double weight = 1.0;
  std::string dimension = {};         // of the reward's named numbers; empty: its main one
  Drives drives = Drives::both;       // whose advantage the term enters
  TermScale scale = TermScale::none;  // running: centred and divided by its running std before all else
  double clip = 0;                    // the scaled score is kept within +-clip; 0: off
  std::string gate = {};              // name of another term: this one's score is 0 where that one's is below gate_min
  double gate_min = 0.5;
  GenevalMeasure measure = GenevalMeasure::mixed;  // geneval, edit: strict, soft, or their mean
  double timeout_s = 60;                           // of one call, for rewards outside of this process
  std::string model = {};                          // clip_score, pick_score, hps, aesthetic: folder
  JpegPrefer jpeg_prefer = JpegPrefer::small;
  std::string pattern = {};                     // text_rules: regular expression that must be found; empty: none
  int64_t min_tokens = 0;                       // text_rules
  int64_t max_tokens = 0;                       // text_rules; 0: no limit
  int64_t overlong_cache = 0;                   // text_rules: tokens before max_tokens in which the punishment grows
  DetectorKind detector = DetectorKind::color;  // geneval, edit
  HttpConfig http = {};                         // kind = "http" or detector = "http"
  std::string path = {};                        // plugin: the library, or the program that is its worker
  Isolation isolate = Isolation::process;       // plugin: where it runs
  double max_memory_gib = 8;                    // plugin in a process: of its data
  std::string settings = "{}";                  // plugin: its own table, as JSON

  bool operator==(const TermConfig&) const = default;
};

struct RewardConfig {  // recipe: [reward]
  OnError on_error = OnError::drop_sample;
  double max_dropped = 0.25;  // a step with a larger share dropped stops the run
  std::vector<TermConfig> terms;
};

}  // namespace reward

template <>
struct EnumNames<reward::OnError> {
  static constexpr std::array names = {
      std::pair{reward::OnError::drop_sample, "drop_sample"}, std::pair{reward::OnError::drop_group, "drop_group"},
      std::pair{reward::OnError::stop, "stop"}, std::pair{reward::OnError::retry, "retry"}};
};
template <>
struct EnumNames<reward::Drives> {
  static constexpr std::array names = {std::pair{reward::Drives::both, "both"}, std::pair{reward::Drives::text, "text"},
                                       std::pair{reward::Drives::image, "image"}};
};
template <>
struct EnumNames<reward::TermScale> {
  static constexpr std::array names = {std::pair{reward::TermScale::none, "none"},
                                       std::pair{reward::TermScale::running, "running"}};
};
template <>
struct EnumNames<reward::RewardKind> {
  static constexpr std::array names = {std::pair{reward::RewardKind::geneval, "geneval"},
                                       std::pair{reward::RewardKind::edit, "edit"},
                                       std::pair{reward::RewardKind::answer, "answer"},
                                       std::pair{reward::RewardKind::format, "format"},
                                       std::pair{reward::RewardKind::text_rules, "text_rules"},
                                       std::pair{reward::RewardKind::ocr, "ocr"},
                                       std::pair{reward::RewardKind::jpeg, "jpeg"},
                                       std::pair{reward::RewardKind::brightness, "brightness"},
                                       std::pair{reward::RewardKind::saturation, "saturation"},
                                       std::pair{reward::RewardKind::http, "http"},
                                       std::pair{reward::RewardKind::plugin, "plugin"},
                                       std::pair{reward::RewardKind::clip_score, "clip_score"},
                                       std::pair{reward::RewardKind::pick_score, "pick_score"},
                                       std::pair{reward::RewardKind::hps, "hps"},
                                       std::pair{reward::RewardKind::aesthetic, "aesthetic"}};
};
template <>
struct EnumNames<reward::DetectorKind> {
  static constexpr std::array names = {std::pair{reward::DetectorKind::color, "color"},
                                       std::pair{reward::DetectorKind::http, "http"}};
};
template <>
struct EnumNames<reward::HttpFormat> {
  static constexpr std::array names = {std::pair{reward::HttpFormat::json, "json"},
                                       std::pair{reward::HttpFormat::chat, "chat"}};
};
template <>
struct EnumNames<reward::HttpImageFormat> {
  static constexpr std::array names = {std::pair{reward::HttpImageFormat::png, "png"},
                                       std::pair{reward::HttpImageFormat::jpeg, "jpeg"},
                                       std::pair{reward::HttpImageFormat::webp, "webp"}};
};
template <>
struct EnumNames<reward::GenevalMeasure> {
  static constexpr std::array names = {std::pair{reward::GenevalMeasure::strict, "strict"},
                                       std::pair{reward::GenevalMeasure::soft, "soft"},
                                       std::pair{reward::GenevalMeasure::mixed, "mixed"}};
};
template <>
struct EnumNames<reward::JpegPrefer> {
  static constexpr std::array names = {std::pair{reward::JpegPrefer::large, "large"},
                                       std::pair{reward::JpegPrefer::small, "small"}};
};
template <>
struct EnumNames<reward::Isolation> {
  static constexpr std::array names = {std::pair{reward::Isolation::process, "process"},
                                       std::pair{reward::Isolation::none, "none"}};
};

}  // namespace unigrpo
