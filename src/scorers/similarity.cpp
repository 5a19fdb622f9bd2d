#include "scorers/similarity.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "base/error.h"
#include "scorers/clip_model.h"
#include "scorers/clip_tokenizer.h"
#include "scorers/images.h"

namespace unigrpo::scorers {
namespace {

using reward::Score;

constexpr double kFlowGrpoScale = 26;  // what flow_grpo divides PickScore by

/// A prompt as the model reads it; each is read once, however many samples answer it.
struct Prompt {
  std::string reason;  // why it cannot be read
  bool truncated = false;
  int64_t row = 0;  // of the text embeddings
};

/// Token ids of different lengths, filled up with `fill`: [B, T].
at::Tensor to_batch(std::span<const std::vector<int64_t>> texts, int64_t fill) {
  size_t longest = 0;
  for (const auto& ids : texts) longest = std::max(longest, ids.size());
  at::Tensor batch = at::full({static_cast<int64_t>(texts.size()), static_cast<int64_t>(longest)}, fill, at::kLong);
  for (size_t i = 0; i < texts.size(); ++i)
    std::ranges::copy(texts[i], batch.mutable_data_ptr<int64_t>() + i * longest);
  return batch;
}

class SimilarityReward final : public reward::Reward {
 public:
  SimilarityReward(ScorerKind kind, const std::filesystem::path& folder, const ScorerOptions& options)
      : kind_(kind),
        batch_size_(options.batch_size),
        tokenizer_(folder),
        model_(ClipModel::load(folder)),
        image_config_(read_clip_image_config(folder, model_.config().image_size)) {
    const ClipConfig& config = model_.config();
    if (tokenizer_.vocab_size() > config.vocab_size) {
      throw BadInput("{}: the tokenizer has {} ids, the config says vocab_size {}", folder.string(),
                     tokenizer_.vocab_size(), config.vocab_size);
    }
    if (config.eos_token_id != kLegacyEosTokenId && config.eos_token_id != tokenizer_.eos_token_id()) {
      throw BadInput("{}: the tokenizer ends texts with id {}, the config says eos_token_id {}", folder.string(),
                     tokenizer_.eos_token_id(), config.eos_token_id);
    }
  }

  std::vector<Score> score(std::span<const data::Sample> samples) override {
    std::vector<Score> scores(samples.size());
    const ImagesToJudge judged = images_to_judge(samples, scores);
    if (judged.rows.empty()) return scores;
    std::map<std::string, Prompt> prompts;
    for (const size_t n : judged.rows) prompts.try_emplace(samples[n].prompt);
    const at::Tensor texts = embed_texts(prompts);                                              // [prompts, P]
    const at::Tensor images = embed_images(model_, image_config_, judged.images, batch_size_);  // [N, P]
    for (size_t i = 0; i < judged.rows.size(); ++i) {
      const data::Sample& sample = samples[judged.rows[i]];
      const Prompt& prompt = prompts.at(sample.prompt);
      Score& score = scores[judged.rows[i]];
      if (!prompt.reason.empty()) {
        score.reason = prompt.reason;
        continue;
      }
      score = to_score(images[static_cast<int64_t>(i)].dot(texts[prompt.row]).item<double>());
      if (prompt.truncated)
        score.notes["prompt"] = fmt::format("truncated to {} tokens", model_.config().max_positions);
    }
    return scores;
  }

 private:
  Score to_score(double cosine) const {
    const double scaled = model_.logit_scale() * cosine;
    switch (kind_) {
      case ScorerKind::clip_score:
        return {.value = 100 * std::max(cosine, 0.0), .reason = "", .parts = {{"cosine", cosine}}};
      case ScorerKind::pick_score:
        return {.value = scaled, .reason = "", .parts = {{"cosine", cosine}, {"normalized", scaled / kFlowGrpoScale}}};
      case ScorerKind::hps:
        return {.value = cosine, .reason = "", .parts = {}};
      case ScorerKind::aesthetic:
        break;
    }
    throw RuntimeFailure("the scorer {} compares no prompt", enum_name(kind_));
  }

  /// Embeddings of length 1 of the prompts that can be read, `row` being where; the others get their reason. [prompts,
  /// P]
  at::Tensor embed_texts(std::map<std::string, Prompt>& prompts) const {
    std::vector<std::vector<int64_t>> texts;
    for (auto& [text, prompt] : prompts) {
      try {
        ClipTokenizer::Text read = tokenizer_.encode(text, model_.config().max_positions);
        prompt.truncated = read.truncated;
        prompt.row = static_cast<int64_t>(texts.size());
        texts.push_back(std::move(read.ids));
      } catch (const BadInput& error) {
        prompt.reason = error.what();
      }
    }
    std::vector<at::Tensor> parts = {at::empty({0, model_.config().projection_dim})};
    const std::span<const std::vector<int64_t>> all = texts;
    for (size_t begin = 0; begin < all.size(); begin += static_cast<size_t>(batch_size_)) {
      const auto part = all.subspan(begin, std::min(static_cast<size_t>(batch_size_), all.size() - begin));
      parts.push_back(to_unit_length(model_.text_features(to_batch(part, tokenizer_.eos_token_id()))));
    }
    return at::cat(parts, 0);
  }

  ScorerKind kind_;
  int64_t batch_size_;
  ClipTokenizer tokenizer_;
  ClipModel model_;
  ClipImageConfig image_config_;
};

}  // namespace

std::unique_ptr<reward::Reward> make_similarity_scorer(ScorerKind kind, const std::filesystem::path& folder,
                                                       const ScorerOptions& options) {
  return std::make_unique<SimilarityReward>(kind, folder, options);
}

}  // namespace unigrpo::scorers
