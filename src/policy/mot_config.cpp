#include "policy/mot_config.h"

#include <nlohmann/json.hpp>

#include "base/error.h"

namespace unigrpo::policy {

MotConfig read_mot_config(const io::JsonSection& s, const MotConfig& family) {
  MotConfig c = family;
  c.hidden_size = s.integer("hidden_size");
  c.intermediate_size = s.integer("intermediate_size");
  c.num_layers = s.integer("num_hidden_layers");
  c.num_heads = s.integer("num_attention_heads");
  c.num_kv_heads = s.integer("num_key_value_heads");
  c.vocab_size = s.integer("vocab_size");
  c.max_positions = s.integer("max_position_embeddings", c.max_positions);
  c.rms_norm_eps = s.number("rms_norm_eps", c.rms_norm_eps);
  c.rope_theta = s.number("rope_theta", c.rope_theta);
  c.tie_word_embeddings = s.boolean("tie_word_embeddings", c.tie_word_embeddings);
  const bool own_width = s.has("head_dim");
  if (!own_width && c.hidden_size % c.num_heads != 0) {
    throw BadInput("{}: hidden_size {} must give an even head width over num_attention_heads {}", s.where(),
                   c.hidden_size, c.num_heads);
  }
  c.head_dim = own_width ? s.integer("head_dim") : c.hidden_size / c.num_heads;
  if (c.head_dim % 2 != 0)
    throw BadInput("{}: a head width of {} is odd; rotary positions turn pairs", s.where(), c.head_dim);
  if (c.num_heads % c.num_kv_heads != 0) {
    throw BadInput("{}: num_attention_heads {} must be a multiple of num_key_value_heads {}", s.where(), c.num_heads,
                   c.num_kv_heads);
  }
  if (s.boolean("use_sliding_window", false)) {
    throw BadInput("{}: 'use_sliding_window' is true; attention within a window is not supported, only full attention",
                   s.where());
  }
  if (s.has("rope_scaling")) {
    throw BadInput("{}: 'rope_scaling' is {}; scaled rotary positions are not supported, only 'rope_theta'", s.where(),
                   s.at("rope_scaling").dump());
  }
  if (s.has("rope_parameters")) {  // how transformers 5 writes both
    const io::JsonSection rope = s.section("rope_parameters");
    if (const std::string type = rope.text("rope_type", "default"); type != "default") {
      throw BadInput("{}: 'rope_type' is \"{}\"; scaled rotary positions are not supported, only \"default\"",
                     rope.where(), type);
    }
    c.rope_theta = rope.number("rope_theta", c.rope_theta);
  }
  if (const std::string act = s.text("hidden_act", "silu"); act != "silu") {
    throw BadInput("{}: 'hidden_act' must be \"silu\", got \"{}\"", s.where(), act);
  }
  return c;
}

}  // namespace unigrpo::policy
