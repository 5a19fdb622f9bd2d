#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

Section sft_section() {
  return Builder("sft", "warm start: unigrpo sft", [](Recipe& r, size_t) -> auto& { return r.sft; })
      .row("stage", &SftConfig::stage, "what is trained")
      .row("output", &SftConfig::output, "model folder to write", {}, kForSft)
      .row("batch_size", &SftConfig::batch_size, "samples a step", between(1, kSome))
      .row("num_examples", &SftConfig::num_examples, "joint: examples drawn from the embedded world, then reused",
           between(1, kMany))
      .row("plan_noise", &SftConfig::plan_noise,
           "embedded world: share of plans made wrong on purpose, in edits and first turns too", between(0, 1))
      .row("scene_noise", &SftConfig::scene_noise, "embedded world: share of images made to depart from the plan",
           between(0, 1))
      .row("answer", &SftConfig::answer, "embedded world: share of questions about an image", between(0, 1))
      .row("describe", &SftConfig::describe, "embedded world: share of images told in words", between(0, 1))
      .row("edit", &SftConfig::edit, "embedded world: share of changes of an image", between(0, 1))
      .row("self_correct", &SftConfig::self_correct,
           "embedded world: share of two turns, the second after a look at the first", between(0, 1))
      .row("answer_noise", &SftConfig::answer_noise, "answer: share of answers made wrong on purpose", between(0, 1))
      .row("first_image_noise", &SftConfig::first_image_noise,
           "self_correct: share of first images that depart from their plan, and are not trained on", between(0, 1))
      .row("text_weight", &SftConfig::text_weight, "of the cross-entropy", at_least(0, kLarge))
      .row("image_weight", &SftConfig::image_weight, "of the velocity MSE", at_least(0, kLarge))
      .row("timesteps_per_image", &SftConfig::timesteps_per_image, "noisy copies that share one context",
           between(1, 1024))
      .row("prompt_dropout", &SftConfig::prompt_dropout, "share of samples trained without prompt, for guidance",
           between(0, 1))
      .row("kl_weight", &SftConfig::kl_weight, "autoencoder: of the posterior KL", at_least(0, kLarge))
      .row("clip_noise", &SftConfig::clip_noise, "clips: share of the embedded world's made imperfect on purpose",
           between(0, 1))
      .row("video_weight", &SftConfig::video_weight, "clips: of the video's velocity MSE", at_least(0, kLarge))
      .row("audio_weight", &SftConfig::audio_weight, "clips: of the audio's velocity MSE", at_least(0, kLarge))
      .row("independent_t", &SftConfig::independent_t,
           "clips: share of noisy states whose streams each have a t of their own, of every other one a t of 0",
           between(0, 1))
      .row("isolated", &SftConfig::isolated, "clips: share of noisy states without attention between the streams",
           between(0, 1));
}

}  // namespace

std::vector<Section> sft_sections() { return {sft_section()}; }

}  // namespace unigrpo::recipe
