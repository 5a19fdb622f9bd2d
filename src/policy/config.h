#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/enum_names.h"

namespace unigrpo::policy {

UNIGRPO_ENUM(DtypeChoice, float32, bfloat16);
UNIGRPO_ENUM(TrainMode, full, lora);

struct LoraConfig {  // recipe: [policy.lora]
  int64_t rank = 32;
  double alpha = 64;
  double dropout = 0;  // of the adapters' inputs in the update; ratios then do not start at 1
  std::vector<std::string> targets = {"*_proj.weight", "*_proj_moe_gen.weight"};  // weights to adapt, * and ?
};

struct TextFeatures {  // recipe: data.text_features, data.text_length
  std::string file;    // empty: the model folder's own encoder
  int64_t length = 0;  // 0 = as long as they are
};

struct PolicyConfig {          // recipe: [policy]
  std::string model;           // folder in the official layout of its family
  std::string device = "cpu";  // "cpu", "cuda", "cuda:N": what holds the weights and does the arithmetic
  DtypeChoice dtype = DtypeChoice::float32;
  TrainMode train = TrainMode::full;
  std::vector<std::string> freeze = {"vit_model.*", "connector.*", "vit_pos_embed.*", "latent_pos_embed.*"};
  bool recompute = false;  // activations of each layer: less memory, one more forward
  LoraConfig lora;
  TextFeatures text;  // of families that read encoded texts
};

}  // namespace unigrpo::policy
