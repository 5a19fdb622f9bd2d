#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "io/class_config.h"
#include "policy/ltx2/transformer.h"

namespace unigrpo::policy::ltx2 {
namespace {

void check_widths(const io::ClassConfig& file, const TransformerConfig& c) {
  const StreamConfig &video = c.streams.video, &audio = c.streams.audio;
  if (audio.context_dim != audio.width()) {
    file.refuse("audio_cross_attention_dim",
                fmt::format("must be audio_num_attention_heads * audio_attention_head_dim = {}, is {}", audio.width(),
                            audio.context_dim));
  }
  if ((c.use_prompt_embeddings || c.prompt_modulation()) && video.context_dim != video.width()) {
    file.refuse("cross_attention_dim", fmt::format("must be num_attention_heads * attention_head_dim = {}, is {}",
                                                   video.width(), video.context_dim));
  }
  for (const auto& [key, dim] :
       {std::pair("attention_head_dim", video.head_dim), std::pair("audio_attention_head_dim", audio.head_dim)}) {
    if (dim % 2 != 0) file.refuse(key, fmt::format("must be even (rotary positions), is {}", dim));
  }
  // The video's table between the streams is cut by its own number of heads.
  if (c.rope_split && audio.width() / 2 % video.heads != 0) {
    file.refuse("num_attention_heads",
                fmt::format("{} does not divide half the audio's width {}", video.heads, audio.width()));
  }
}

}  // namespace

TransformerConfig read_transformer_config(const std::filesystem::path& path) {
  auto file = io::ClassConfig::open(path, {"LTX2VideoTransformer3DModel"});
  TransformerConfig c;
  StreamConfig &video = c.streams.video, &audio = c.streams.audio;
  video.in_channels = file.integer("in_channels", 128, kMostChannels);
  video.out_channels = file.integer_or_none("out_channels", 128).value_or(video.in_channels);
  video.heads = file.integer("num_attention_heads", 32, kMostHeads);
  video.head_dim = file.integer("attention_head_dim", 128, kMostChannels);
  video.context_dim = file.integer("cross_attention_dim", 4096, kMostChannels);
  video.max_seconds = static_cast<double>(file.integer("pos_embed_max_pos", 20));
  video.gated = file.boolean("gated_attn", false);
  video.text_modulated = file.boolean("cross_attn_mod", false);
  video.ff_bias = file.boolean("ff_bias", true);
  audio.in_channels = file.integer("audio_in_channels", 128, kMostChannels);
  audio.out_channels = file.integer_or_none("audio_out_channels", 128).value_or(audio.in_channels);
  audio.heads = file.integer("audio_num_attention_heads", 32, kMostHeads);
  audio.head_dim = file.integer("audio_attention_head_dim", 64, kMostChannels);
  audio.context_dim = file.integer("audio_cross_attention_dim", 2048, kMostChannels);
  audio.max_seconds = static_cast<double>(file.integer("audio_pos_embed_max_pos", 20));
  audio.gated = file.boolean("audio_gated_attn", false);
  audio.text_modulated = file.boolean("audio_cross_attn_mod", false);
  audio.ff_bias = file.boolean("audio_ff_bias", true);
  for (const char* key : {"patch_size", "patch_size_t", "audio_patch_size", "audio_patch_size_t"}) file.only(key, 1);

  c.num_layers = file.integer("num_layers", 48, kMostLayers);
  c.caption_channels = file.integer("caption_channels", 3840, kMostChannels);
  c.use_prompt_embeddings = file.boolean("use_prompt_embeddings", true);
  c.use_prompt_adaln_single = file.boolean("use_prompt_adaln_single", true);
  c.keyframes = file.boolean("use_keyframes_abs_pos_embedding", false);
  c.perturbed = file.boolean("perturbed_attn", false);
  c.attention_bias = file.boolean("attention_bias", true);
  c.attention_out_bias = file.boolean("attention_out_bias", true);
  c.norm_eps = file.positive("norm_eps", 1e-6);
  file.only("activation_fn", "gelu-approximate");
  file.only("qk_norm", "rms_norm_across_heads");
  file.only("norm_elementwise_affine", false);

  const auto scales = file.integers("vae_scale_factors", {8, 32, 32});
  if (scales.size() != 3) file.refuse("vae_scale_factors", fmt::format("must have 3 entries, has {}", scales.size()));
  const int64_t causal_offset = file.integer("causal_offset", 1);
  c.video_scale = {.time = scales[0], .height = scales[1], .width = scales[2], .causal_offset = causal_offset};
  c.audio_scale = {.time = file.integer("audio_scale_factor", 4),
                   .causal_offset = causal_offset,
                   .hop = file.integer("audio_hop_length", 160),
                   .rate = file.integer("audio_sampling_rate", 16000)};
  c.base_height = static_cast<double>(file.integer("base_height", 2048));
  c.base_width = static_cast<double>(file.integer("base_width", 2048));
  c.rope_theta = file.positive("rope_theta", 10000.0);
  c.rope_double_precision = file.boolean("rope_double_precision", true);
  c.rope_split = file.choice("rope_type", "interleaved", {"interleaved", "split"}) == "split";
  c.gate_scale =
      file.positive("cross_attn_timestep_scale_multiplier", 1000) / file.positive("timestep_scale_multiplier", 1000);
  file.finish();
  check_widths(file, c);
  return c;
}

}  // namespace unigrpo::policy::ltx2
