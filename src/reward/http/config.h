#pragma once

#include <cstdint>
#include <string>

#include "base/enum_names.h"

namespace unigrpo::reward {

UNIGRPO_ENUM(HttpFormat, json, chat);
UNIGRPO_ENUM(HttpImageFormat, png, jpeg, webp);

/// A service that is asked over HTTP: a judge or a detector.
struct EndpointConfig {  // recipe: [rewards.http] with kind = "http" or detector = "http"
  std::string url;
  std::string key_env;  // environment variable with the key; empty: none is sent
  std::string ca_file;  // PEM; empty: the system's authorities
  bool allow_plain_http = false;
  bool use_proxy = false;
  bool probe = true;  // somebody must answer there before a run begins
  int64_t max_concurrent = 8;
  int64_t max_tries = 3;
  HttpImageFormat image_format = HttpImageFormat::png;
  int64_t batch_size = 8;  // json, detector: samples (or images) a request
  double timeout_s = 60;   // of one call; recipe: timeout_s of the term

  bool operator==(const EndpointConfig&) const = default;
};

struct JudgeConfig {  // recipe: [rewards.http] with kind = "http"
  HttpFormat format = HttpFormat::json;
  bool whole_groups = false;  // json: a request holds all samples of a prompt, for judges that compare
  std::string model;          // chat, and the next six
  std::string system;
  std::string message_template;  // recipe: template
  int64_t max_tokens = 512;
  double temperature = 0;
  std::string score_pointer;
  std::string score_regex;
  double scale = 1.0;  // score = scale * number + offset
  double offset = 0.0;
  double min_number = -1e6;  // a number outside is no score
  double max_number = 1e6;

  bool operator==(const JudgeConfig&) const = default;
};

}  // namespace unigrpo::reward
