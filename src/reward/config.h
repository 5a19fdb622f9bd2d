#pragma once

#include <string>
#include <vector>

#include "base/enum_names.h"
#include "reward/builtin/config.h"
#include "reward/http/config.h"
#include "reward/plugin/config.h"

namespace unigrpo::reward {

UNIGRPO_ENUM(OnError, drop_sample, drop_group, stop, retry);
/// Of this build, one's own (http, plugin), and networks (scorers::ScorerKind).
UNIGRPO_ENUM(RewardKind, geneval, edit, answer, format, text_rules, ocr, jpeg, brightness, saturation, http, plugin,
             clip_score, pick_score, hps, aesthetic, av_sync, av_lip, av_pitch, av_camera, av_order, av_side, av_shape,
             av_quality);
UNIGRPO_ENUM(Modality, both, text, image);
UNIGRPO_ENUM(Stream, video, audio);
UNIGRPO_ENUM(TermScale, none, running);

struct NetworkConfig {     // kinds clip_score, pick_score, hps and aesthetic
  std::string model = {};  // folder

  bool operator==(const NetworkConfig&) const = default;
};

struct TermConfig {       // recipe: [[rewards]]
  std::string name = {};  // metric name reward/<name>; the kind where empty
  RewardKind kind = RewardKind::geneval;
  double weight = 1.0;
  std::string dimension = {};                                    // of the reward's named numbers; empty: its main one
  Modality modality = Modality::both;                            // whose advantage the term enters
  std::vector<Stream> streams = {Stream::video, Stream::audio};  // the same of a clip's
  TermScale scale = TermScale::none;  // running: centred and divided by its running std before all else
  double clip = 0;                    // the scaled score is kept within +-clip; 0: off
  std::string gate = {};              // name of another term: this one's score is 0 where that one's is below gate_min
  double gate_min = 0.5;

  // What each kind has of its own; a recipe can fill only those of `kind`.
  ObjectsConfig objects = {};
  TextRulesConfig text_rules = {};
  JpegConfig jpeg = {};
  NetworkConfig network = {};
  EndpointConfig http = {};
  JudgeConfig judge = {};
  PluginConfig plugin = {};

  bool operator==(const TermConfig&) const = default;
};

constexpr bool finds_objects(RewardKind kind) { return kind == RewardKind::geneval || kind == RewardKind::edit; }

/// Kinds that are networks in folders of their own (src/scorers).
constexpr bool is_network(RewardKind kind) {
  using enum RewardKind;
  return kind == clip_score || kind == pick_score || kind == hps || kind == aesthetic;
}

/// Kinds that judge clips of the world of picture and sound (builtin/av_terms.h).
constexpr bool judges_clips(RewardKind kind) { return kind >= RewardKind::av_sync && kind <= RewardKind::av_quality; }

/// Whether the term asks a service over HTTP.
inline bool uses_http(const TermConfig& term) {
  return term.kind == RewardKind::http || (finds_objects(term.kind) && term.objects.detector == DetectorKind::http);
}

struct RewardConfig {  // recipe: [reward]
  OnError on_error = OnError::drop_sample;
  double max_dropped = 0.25;  // a step with a larger share dropped stops the run
  std::vector<TermConfig> terms;
};

}  // namespace unigrpo::reward
