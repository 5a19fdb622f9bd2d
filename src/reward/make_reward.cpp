// Apart from rewarder.cpp, so that a program which brings rewards of its own links none of these.
#include "base/enum_names.h"
#include "base/error.h"
#include "reward/builtin/answer.h"
#include "reward/builtin/av_terms.h"
#include "reward/builtin/color_detector.h"
#include "reward/builtin/edit.h"
#include "reward/builtin/format.h"
#include "reward/builtin/geneval.h"
#include "reward/builtin/last_image.h"
#include "reward/builtin/ocr.h"
#include "reward/builtin/text_rules.h"
#include "reward/http/http_reward.h"
#include "reward/plugin/plugin_reward.h"
#include "reward/rewarder.h"

namespace unigrpo::reward {
namespace {

std::unique_ptr<Detector> make_detector(const TermConfig& term, StopToken stop) {
  return term.objects.detector == DetectorKind::http ? make_http_detector(term, stop) : make_color_detector();
}

}  // namespace

std::unique_ptr<Reward> make_reward(const TermConfig& term, StopToken stop) {
  switch (term.kind) {
    case RewardKind::geneval:
      return make_geneval_reward(term.objects.metric, make_detector(term, stop));
    case RewardKind::edit:
      return make_edit_reward(term.objects.metric, make_detector(term, stop));
    case RewardKind::answer:
      return make_answer_reward();
    case RewardKind::format:
      return make_format_reward();
    case RewardKind::text_rules:
      return make_text_rules_reward(term.text_rules);
    case RewardKind::ocr:
      return make_ocr_reward();
    case RewardKind::jpeg:
      return make_jpeg_reward(term.jpeg.prefer);
    case RewardKind::brightness:
      return make_brightness_reward();
    case RewardKind::saturation:
      return make_saturation_reward();
    case RewardKind::http:
      return make_http_reward(term, stop);
    case RewardKind::plugin:
      return make_plugin_reward(term, stop);
    case RewardKind::clip_score:
    case RewardKind::pick_score:
    case RewardKind::hps:
    case RewardKind::aesthetic:
      throw BadInput("reward '{}' is a network: it needs a build with LibTorch", enum_name(term.kind));
    case RewardKind::av_sync:
    case RewardKind::av_lip:
    case RewardKind::av_pitch:
    case RewardKind::av_camera:
    case RewardKind::av_order:
    case RewardKind::av_side:
    case RewardKind::av_shape:
    case RewardKind::av_quality:
      return make_av_reward(enum_value<AvTerm>(enum_name(term.kind)).value());
  }
  throw RuntimeFailure("unknown reward kind {}", static_cast<int>(term.kind));
}

}  // namespace unigrpo::reward
