#pragma once

#include <array>
#include <memory>
#include <string>

#include "base/enum_names.h"
#include "media/clip.h"
#include "reward/reward.h"
#include "reward/score.h"

namespace unigrpo::reward {

/// What a clip of the world of picture and sound (data/worlds/av_world.h) is judged by.
UNIGRPO_ENUM(AvTerm, av_sync, av_lip, av_pitch, av_camera, av_order, av_side, av_shape, av_quality);

/// One dimension of a clip, 0..1, from its frames of 8 bits and its samples alone; what was measured stands in `notes`.
/// A prompt that does not ask for the dimension has no score there, which is neither 0 nor 1; a clip that lacks what
/// was asked for gets 0 and the reason.
///
///   av_sync     exp(-(d / 60 ms)^2), d from each contact with the floor to its onset, by min / max of their numbers
///   av_lip      correlation of mouth and voice at its best lag within 250 ms, by exp(-(lag / 60 ms)^2); 0 where either
///               has another number of syllables
///   av_pitch    1 for the asked class of 12, else max(0, 1 - semitones / 3)
///   av_camera   1 - |found - asked| / |asked|, 0 in another direction; still: 1 - what moves / 8 pixels a second
///   av_order    half for what is seen, half for what is heard
///   av_side     by the channels' levels, linear within 3 dB; 0 where the object stands on the other side
///   av_shape    GenEval's soft score (geneval.h) of the asked objects on three frames, their mean
///   av_quality  product of three ramps: flicker off the object, clipped samples, sound where none is asked for
///
/// `metadata_json`: the row's, with `metadata.av`. Throws BadInput for a row without it.
Score av_score(AvTerm term, const media::Clip& clip, const std::string& metadata_json);

/// The same of a sample's last clip.
std::unique_ptr<Reward> make_av_reward(AvTerm term);

}  // namespace unigrpo::reward
