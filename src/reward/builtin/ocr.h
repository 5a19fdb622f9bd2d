#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "reward/reward.h"

namespace unigrpo::reward {

/// How well an image shows the text that it should, in [0, 1]: 1 - min(d, n) / n, with n the target's length in bytes
/// and d the Levenshtein distance of the two texts, 0 where the target is part of what was read; white space and the
/// case of ASCII letters aside. It is Flow-GRPO's (arXiv 2505.05470). `target` has more than white space.
double ocr_score(std::string_view read, std::string_view target);

/// ocr_score of a sample's last image, read by Tesseract (English). The target is `metadata.text` of the row, else what
/// stands between the first two double quotes of the prompt; a sample without either or without an image has no score.
/// What was read becomes the note `read`.
///
/// Throws BadInput in a build without Tesseract, and where Tesseract has no English model.
std::unique_ptr<Reward> make_ocr_reward();

}  // namespace unigrpo::reward
