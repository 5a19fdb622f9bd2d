#include "recipe/sections/builder.h"
#include "recipe/sections/sections.h"

namespace unigrpo::recipe {
namespace {

using grpo::AdvantageConfig, grpo::AvConfig, grpo::GrpoConfig, grpo::ImageLossConfig, grpo::TextLossConfig;

Section grpo_section() {
  return Builder("grpo", "batches and updates", [](Recipe& r, size_t) -> auto& { return r.grpo; })
      .row("prompts_per_step", &GrpoConfig::prompts_per_step, "P", between(1, kSome))
      .row("group_size", &GrpoConfig::group_size, "G: samples a prompt", between(2, kSome))
      .row("num_minibatches", &GrpoConfig::num_minibatches,
           "optimizer steps a rollout batch, over disjoint mini-batches of whole groups (of samples where fewer groups "
           "are left)",
           between(1, kSome))
      .row("micro_batch_tokens", &GrpoConfig::micro_batch_tokens, "tokens in one forward and backward",
           between(1, kMany));
}

Section grpo_advantage_section() {
  return Builder("grpo.advantage", "rewards to advantages", [](Recipe& r, size_t) -> auto& { return r.grpo.advantage; })
      .row("normalization", &AdvantageConfig::normalization, "what the centred reward is divided by")
      .row("statistics", &AdvantageConfig::statistics,
           "whose mean and standard deviation: this group's, the prompt's over the run, or all rewards' over the "
           "run")
      .row("decay", &AdvantageConfig::decay,
           "prompt, running: share of the earlier steps' statistics that a step keeps", from_below(0, 1))
      .row("combine", &AdvantageConfig::combine, "several reward terms")
      .row("normalize_batch", &AdvantageConfig::normalize_batch,
           "advantages once more over all samples of the step (GDPO)")
      .row("top_k", &AdvantageConfig::top_k,
           "train on this many best of a group and its bottom_k worst; 0 and 0: on all", between(0, kSome))
      .row("bottom_k", &AdvantageConfig::bottom_k, "see top_k", between(0, kSome))
      .row("eps", &AdvantageConfig::eps, "added to the standard deviation", at_least(0, kLarge))
      .row("ddof", &AdvantageConfig::ddof, "of the standard deviation", between(0, 1))
      .row("clip", &AdvantageConfig::clip, "bound of the image loss's advantages", above(0, kLarge))
      .row("zero_std", &AdvantageConfig::zero_std, "a group without spread: A = 0, leaves, or is replaced")
      .row("max_resamples", &AdvantageConfig::max_resamples, "resample: draws at most, before such groups leave (DAPO)",
           between(1, 100));
}

Section grpo_text_section() {
  return Builder("grpo.text", "text loss", [](Recipe& r, size_t) -> auto& { return r.grpo.text; })
      .row("weight", &TextLossConfig::weight, "0: text is not trained", at_least(0, kLarge))
      .row("importance", &TextLossConfig::importance, "ratio of a token, of a sequence (GSPO), or CISPO")
      .row("aggregation", &TextLossConfig::aggregation, "mean over tokens, over sequences, or Dr.GRPO's")
      .row("clip_low", &TextLossConfig::clip_low, "ratios are clipped below 1 - clip_low", strictly_between(0, 1))
      .row("clip_high", &TextLossConfig::clip_high, "ratios are clipped above 1 + clip_high", above(0, kLarge))
      .row("dual_clip", &TextLossConfig::dual_clip, "bound for negative advantages; 0: off",
           or_else(0, up_to(kLarge, above(1))))
      .row("kl_beta", &TextLossConfig::kl_beta, "weight of the KL to the reference", at_least(0, kLarge))
      .row("kl_estimator", &TextLossConfig::kl_estimator, "of that KL; k1: for the metric alone, with kl_beta = 0")
      .row("max_length", &TextLossConfig::max_length, "fixed_length: the divisor; 0: rollout.max_tokens",
           between(0, 1e6))
      .row("truncated", &TextLossConfig::truncated,
           "what becomes of truncated texts: trained on as others, left out, or never better than one standard "
           "deviation below their group");
}

/// Of what is denoised in one modality; `context`: the key of images alone, whose context has gradients.
template <typename At>
Section flow_section(const char* key, const char* meaning, const char* weight, bool context, At at) {
  Builder rows(key, meaning, at);
  rows.row("weight", &ImageLossConfig::weight, weight, at_least(0, kLarge))
      .row("clip_range", &ImageLossConfig::clip_range, "ratios are clipped to 1 +- clip_range", strictly_between(0, 1))
      .row("ratio_norm", &ImageLossConfig::ratio_norm, "GRPO-Guard's ratios; flow_sde and dance")
      .row("step_weight", &ImageLossConfig::step_weight, "of a denoising step in the loss");
  if (context) {
    rows.row("context_gradient", &ImageLossConfig::context_gradient, "whether the image loss reaches the text context");
  }
  return rows.row("penalty", &ImageLossConfig::penalty, "what holds the policy near the reference")
      .row("penalty_weight", &ImageLossConfig::penalty_weight, "of the penalty", at_least(0, kLarge));
}

Section grpo_image_section() {
  return flow_section("grpo.image", "image loss", "0: images are not trained", /*context=*/true,
                      [](Recipe& r, size_t) -> auto& { return r.grpo.image; });
}

Section grpo_video_section() {
  return flow_section("grpo.video", "loss of the video of av segments", "0: it is not trained", /*context=*/false,
                      [](Recipe& r, size_t) -> auto& { return r.grpo.video; });
}

Section grpo_audio_section() {
  return flow_section("grpo.audio", "loss of the sound of av segments", "0: it is not trained", /*context=*/false,
                      [](Recipe& r, size_t) -> auto& { return r.grpo.audio; });
}

Section grpo_av_section() {
  return Builder("grpo.av", "what the streams of av segments share",
                 [](Recipe& r, size_t) -> auto& { return r.grpo.av; })
      .row("advantage", &AvConfig::advantage, "a stream's: of the rewards that judge it (their `streams`), or of all");
}

}  // namespace

std::vector<Section> grpo_sections() {
  return {grpo_section(),       grpo_advantage_section(), grpo_text_section(), grpo_image_section(),
          grpo_video_section(), grpo_audio_section(),     grpo_av_section()};
}

}  // namespace unigrpo::recipe
