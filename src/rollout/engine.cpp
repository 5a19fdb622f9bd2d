#include "rollout/engine.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "base/fault.h"
#include "base/signals.h"
#include "data/prompt_file.h"
#include "policy/sharded.h"
#include "rollout/flow_sampler.h"
#include "rollout/rules.h"
#include "rollout/text_decoder.h"
#include "runtime/ranks.h"
#include "runtime/workers.h"
#include "tensor/spoil.h"
#include "tensor/step_graph.h"

namespace unigrpo::rollout {
namespace {

using data::SegmentKind;
using policy::Block;

constexpr int64_t kRowsAUnit = 48;  // episodes that a worker samples together, at least where there are enough

bool has_images(const RolloutConfig& config) { return has_segment(config, SegmentKind::image); }

/// Those of the k-th blocks that are of this kind.
template <typename Kind>
void append_images(policy::UnifiedPolicy& policy, std::span<policy::Context* const> contexts,
                   std::span<const std::vector<Block>* const> blocks, size_t k) {
  std::vector<policy::Context*> readers;
  std::vector<Block> images;
  for (size_t i = 0; i < blocks.size(); ++i) {
    if (k >= blocks[i]->size() || !std::holds_alternative<Kind>((*blocks[i])[k])) continue;
    readers.push_back(contexts[i]);
    images.push_back((*blocks[i])[k]);
  }
  if (!readers.empty()) policy.append_images(readers, images);
}

/// Appends row i's blocks to contexts[i], in calls as large as the kinds allow.
void append_blocks(policy::UnifiedPolicy& policy, std::span<policy::Context* const> contexts,
                   std::span<const std::vector<Block>* const> blocks) {
  size_t depth = 0;
  for (const auto* list : blocks) depth = std::max(depth, list->size());
  for (size_t k = 0; k < depth; ++k) {
    std::vector<policy::Context*> readers;
    std::vector<std::vector<int64_t>> ids;
    for (size_t i = 0; i < blocks.size(); ++i) {
      const auto* text = k < blocks[i]->size() ? std::get_if<policy::TextBlock>(&(*blocks[i])[k]) : nullptr;
      if (!text) continue;
      readers.push_back(contexts[i]);
      ids.push_back(text->ids);
    }
    if (!readers.empty()) policy.append_text(readers, ids);
    std::vector<policy::Context*> encoded_readers;
    std::vector<Block> encoded;
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (k >= blocks[i]->size() || !std::holds_alternative<policy::EncodedBlock>((*blocks[i])[k])) continue;
      encoded_readers.push_back(contexts[i]);
      encoded.push_back((*blocks[i])[k]);
    }
    if (!encoded.empty()) policy.append_encoded(encoded_readers, encoded);
    append_images<policy::LatentBlock>(policy, contexts, blocks, k);
    append_images<policy::VisionBlock>(policy, contexts, blocks, k);
  }
}

/// The size at which a prompt's images are changed: that of the last one, as the policy reads it.
policy::LatentGrid grid_of(const std::vector<Block>& prefix, policy::LatentGrid otherwise) {
  for (const Block& block : prefix) {
    if (const auto* image = std::get_if<policy::LatentBlock>(&block)) otherwise = image->grid;
  }
  return otherwise;
}

/// The images of an episode so far, as its later segments read them.
std::vector<Block> images_seen(const Trajectory& trajectory) {
  std::vector<Block> blocks;
  for (const FlowSegment& image : trajectory.flows) {
    blocks.insert(blocks.end(), image.context.begin(), image.context.end());
  }
  return blocks;
}

/// A text as rewards and readers see it: all that the model wrote, special tokens too, but for the token that ended it.
std::string shown_text(const policy::UnifiedPolicy& policy, const TextSegment& segment) {
  std::vector<int64_t> ids = segment.ids;
  if (!ids.empty() && ids.back() == policy.eos_id()) ids.pop_back();
  return policy.tokenizer().decode_all(ids);
}

/// What of a prompt's group is asked for.
SampleRange range_of(const RolloutRequest& request, int64_t p) {
  return request.ranges.empty() ? SampleRange{.first = 0, .count = request.group_size} : request.ranges[p];
}

/// Steps are recorded in its scope: between rollouts weights may move.
class Recording {
 public:
  Recording(policy::UnifiedPolicy& policy, bool on) : policy_(policy), on_(on) {
    if (on_) policy_.use_graphs(tensor::graphs_of(policy_.device()));
  }
  ~Recording() {
    if (on_) policy_.use_graphs({});
  }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  policy::UnifiedPolicy& policy_;
  bool on_;
};

/// An episode on its way.
struct Row {
  Trajectory trajectory;
  policy::LatentGrid grid;
  policy::Context context;
  StreamKey key;  // segment and purpose are set at each use
  flow::WindowRequest window;
  int64_t tokens = 0;  // that it may come to hold in the cache
  std::unique_ptr<TextRow> text;
};

/// Some prompts of one call of rollout(): rows wait, decode, denoise, and decode again until their episode ends.
class Episodes {
 public:
  Episodes(policy::UnifiedPolicy& policy, const RolloutConfig& config, const Runtime& runtime,
           const RolloutRequest& request)
      : policy_(policy),
        config_(config),
        request_(request),
        runtime_(runtime),
        seed_(runtime.seed),
        grid_(has_images(config) ? policy.grid_for(config.image_size) : policy::LatentGrid{}),
        clip_(clip_of(policy, config)),
        groups_(request.prompts.size()),
        by_text_(has_images(config) && request.guidance.text_scale > 1),
        by_image_(by_text_ && request.guidance.image_scale > 1) {}

  ~Episodes() {
    for (Row& row : rows_) policy_.release(row.context);
    for (Group& group : groups_) release(group);
  }
  Episodes(const Episodes&) = delete;
  Episodes& operator=(const Episodes&) = delete;

  void add_group(int64_t p, const std::vector<Block>& prefix, const std::vector<std::shared_ptr<const Image>>& images) {
    const data::Prompt& prompt = request_.prompts[p];
    const SampleRange range = range_of(request_, p);
    groups_[p].first_row = rows_.size();
    groups_[p].rows = groups_[p].rows_left = range.count;
    for (int64_t g = range.first; g < range.first + range.count; ++g) {
      Row& row = rows_.emplace_back();
      const int64_t sample = request_.first_sample + g;
      row.trajectory.prompt_index = p;
      row.trajectory.sample.group = p;
      row.trajectory.sample_index = sample;
      row.trajectory.prefix = prefix;
      row.grid = grid_of(prefix, grid_);
      row.trajectory.sample.id = prompt.id + "/" + std::to_string(sample);
      row.trajectory.sample.prompt = prompt.text;
      row.trajectory.sample.metadata_json = prompt.metadata_json;
      row.trajectory.sample.images = images;
      row.trajectory.sample.seed = static_cast<int64_t>(seed_);
      row.key = {
          .seed = seed_, .step = request_.step, .prompt = request_.keys[p], .sample = static_cast<uint64_t>(sample)};
      row.window = {.kind = config_.sde.kind,
                    .num_steps = config_.num_steps,
                    .seed = seed_,
                    .step = request_.step,
                    .prompt = request_.keys[p]};
      row.tokens = tokens_for(row);
      waiting_.push_back(&row);
    }
  }

  /// Tokens that the cache may come to hold at once: of the rows that the budget admits with their groups' prefixes,
  /// and of the images that are denoised together. Images that are read again by a vision tower with small patches may
  /// ask for more, and guidance's copies of them.
  int64_t most_tokens() const {
    using policy::KvCache;
    if (rows_.empty()) return 0;
    const int64_t streams = 1 + (by_text_ ? 1 : 0) + (by_image_ ? 1 : 0);
    int64_t contexts = 0, longest = 0, shortest = rows_.front().tokens, image = 0;
    for (size_t r = 0; r < rows_.size(); ++r) {
      const Row& row = rows_[r];
      const int64_t shared = policy::num_tokens(row.trajectory.prefix);
      if (r == groups_[row.trajectory.prompt_index].first_row) contexts += streams * KvCache::in_blocks(shared);
      contexts += KvCache::in_blocks(row.tokens - shared);
      longest = std::max(longest, row.tokens);
      shortest = std::min(shortest, row.tokens);
      image = std::max(image, block_tokens(row));
    }
    const int64_t admitted =
        std::min(static_cast<int64_t>(rows_.size()), std::max<int64_t>(1, config_.token_budget / shortest));
    const int64_t held = std::min(contexts, std::max(config_.token_budget, longest) + admitted * KvCache::kBlockTokens);
    if (!has_images(config_)) return held;
    const int64_t together = std::min(admitted, std::max<int64_t>(1, config_.token_budget / image));
    return held + streams * together * KvCache::in_blocks(image);
  }

  /// Of all rows in their order; of none where a stop came.
  std::vector<Trajectory> run() {
    while (!waiting_.empty() || !decoding_.empty() || !denoising_.empty()) {
      if (stop_before_pass(runtime_)) return {};
      admit();
      decode();
      if (!denoise()) return {};
      hand_on();
    }
    std::vector<Trajectory> trajectories;
    for (Row& row : rows_) trajectories.push_back(std::move(row.trajectory));
    return trajectories;
  }

 private:
  /// What the rows of a prompt share.
  struct Group {
    policy::Context prefix, without_text, without_image;
    size_t first_row = 0;
    int64_t rows = 0, rows_left = 0;
  };

  void release(Group& group) {
    for (policy::Context* context : {&group.prefix, &group.without_text, &group.without_image})
      policy_.release(*context);
  }

  /// Tokens of an image or a clip while it is denoised.
  int64_t block_tokens(const Row& row) const { return clip_ ? clip_->num_tokens() : row.grid.num_tokens() + 2; }

  /// Tokens that a row may come to hold in the cache.
  int64_t tokens_for(const Row& row) const {
    const int64_t block = block_tokens(row);
    const SampleTokens sample = count_tokens(config_, {.block = block, .seen = block});  // seen: about as many
    return policy::num_tokens(row.trajectory.prefix) + sample.images + std::max(sample.texts, config_.max_tokens + 2);
  }

  int64_t tokens_held() const {
    int64_t tokens = 0;
    for (const Row* row : decoding_) tokens += row->tokens;
    for (const Row* row : denoising_) tokens += row->tokens;
    return tokens;
  }

  /// Admits rows while the budget has room; at least one, or nothing would ever move. Prefixes are read with the first
  /// row of their group and given back with the last.
  void admit() {
    int64_t used = tokens_held();
    std::vector<policy::Context*> fresh;
    std::vector<const std::vector<Block>*> fresh_blocks;
    std::deque<std::vector<Block>> parts;  // addresses stay
    std::vector<Row*> admitted;
    while (!waiting_.empty() && (used + waiting_.front()->tokens <= config_.token_budget ||
                                 (decoding_.empty() && denoising_.empty() && admitted.empty()))) {
      Row* row = waiting_.front();
      waiting_.pop_front();
      used += row->tokens;
      admitted.push_back(row);
      const std::vector<Block>& blocks = row->trajectory.prefix;
      Group& group = groups_[row->trajectory.prompt_index];
      if (!group.prefix.slots.empty() || std::ranges::find(fresh, &group.prefix) != fresh.end()) continue;
      fresh.push_back(&group.prefix);
      fresh_blocks.push_back(&blocks);
      if (by_text_) {
        fresh.push_back(&group.without_text);
        fresh_blocks.push_back(&parts.emplace_back(blocks.begin(), blocks.end() - 1));
      }
      if (by_image_) {
        auto& texts = parts.emplace_back();
        std::ranges::copy_if(blocks, std::back_inserter(texts),
                             [](const Block& block) { return std::holds_alternative<policy::TextBlock>(block); });
        fresh.push_back(&group.without_image);
        fresh_blocks.push_back(&texts);
      }
    }
    if (!fresh.empty()) append_blocks(policy_, fresh, fresh_blocks);
    for (Row* row : admitted) {
      row->context = policy_.fork(groups_[row->trajectory.prompt_index].prefix);
      advance(*row);
    }
  }

  /// Sends a row to the next segment of its episode, or ends it.
  void advance(Row& row) {
    const size_t segment = row.trajectory.segments.size();
    if (segment == config_.episode.size()) {
      policy_.release(row.context);
      Group& group = groups_[row.trajectory.prompt_index];
      if (--group.rows_left > 0) return;
      finished_.push_back(row.trajectory.prompt_index);
      release(group);
      return;
    }
    row.key.segment = segment;
    if (config_.episode[segment] != SegmentKind::text) {
      denoising_.push_back(&row);
      return;
    }
    if (segment == 0 && !request_.teacher_forced_text.empty()) {
      auto ids = policy_.tokenizer().encode(request_.teacher_forced_text.at(row.trajectory.prompt_index));
      ids.push_back(policy_.eos_id());
      row.text = std::make_unique<TextRow>(&row.context, std::move(ids));
    } else {
      StreamKey key = row.key;
      key.purpose = Purpose::text_sampling;
      row.text = std::make_unique<TextRow>(&row.context, key, config_.max_tokens);
    }
    decoding_.push_back(&row);
  }

  /// One token for every row that decodes.
  void decode() {
    if (decoding_.empty()) return;
    fault::point("rollout.decode_step");
    std::vector<TextRow*> active;
    for (Row* row : decoding_) active.push_back(row->text.get());
    decode_step(policy_, active, config_.temperature, config_.truncation);
    for (auto it = decoding_.begin(); it != decoding_.end();) {
      Row& row = **it;
      if (!row.text->finished) {
        ++it;
        continue;
      }
      it = decoding_.erase(it);
      TextSegment& segment = row.text->segment;
      tensor::spoil("rollout.log_prob", segment.log_probs);
      segment.fingerprint = fingerprint_of(row.context.digest, segment, config_, policy_);
      data::SampleSegment& shown = row.trajectory.sample.segments.emplace_back();
      shown.kind = SegmentKind::text;
      shown.text = shown_text(policy_, segment);
      shown.num_tokens = static_cast<int64_t>(segment.ids.size());
      shown.finished = segment.finished;
      row.trajectory.segments.push_back(SegmentKind::text);
      row.trajectory.texts.push_back(std::move(segment));
      row.text.reset();
      advance(row);
    }
  }

  /// Denoises in full batches, and what is left once nobody is going to join. False: a stop came.
  bool denoise() {
    const bool no_room = waiting_.empty() || tokens_held() + waiting_.front()->tokens > config_.token_budget;
    while (!denoising_.empty()) {
      const policy::LatentGrid grid = denoising_.front()->grid;
      const int64_t most = std::max<int64_t>(1, config_.token_budget / block_tokens(*denoising_.front()));
      std::vector<Row*> batch, others;
      for (Row* row : denoising_) {
        (row->grid == grid && static_cast<int64_t>(batch.size()) < most ? batch : others).push_back(row);
      }
      // Decoding rows may join, among them those that have just denoised and go on.
      if (static_cast<int64_t>(batch.size()) < most && !(no_room && decoding_.empty())) return true;
      denoising_ = std::move(others);
      std::vector<DenoiseRequest> requests;
      std::deque<policy::Context> without_text;  // addresses stay
      for (Row* row : batch) {
        row->window.segment = row->key.segment;
        Group& group = groups_[row->trajectory.prompt_index];
        requests.push_back(
            {.context = &row->context,
             .without_text = by_text_ ? &without_text.emplace_back(policy_.fork(group.without_text)) : nullptr,
             .without_image = &group.without_image,
             .key = row->key,
             .window = request_.stochastic ? flow::choose_window(config_.window, row->window) : flow::SdeWindow{}});
      }
      if (by_text_) read_images_seen(batch, without_text);
      auto drawn = clip_ ? denoise_clips(policy_, config_, requests, *clip_, runtime_)
                         : rollout::denoise(policy_, config_, requests, grid, request_.guidance, runtime_);
      for (policy::Context& context : without_text) policy_.release(context);
      if (drawn.empty()) return false;
      for (size_t i = 0; i < batch.size(); ++i) {
        drawn[i].fingerprint = fingerprint_of(batch[i]->context.digest, drawn[i], config_, policy_);
        Trajectory& trajectory = batch[i]->trajectory;
        const SegmentKind kind = config_.episode[trajectory.segments.size()];
        trajectory.sample.segments.emplace_back().kind = kind;
        trajectory.segments.push_back(kind);
        trajectory.flows.push_back(std::move(drawn[i]));
      }
      if (batch.front()->trajectory.segments.size() < config_.episode.size()) read_drawn(batch);
      for (Row* row : batch) advance(*row);
    }
    return true;
  }

  /// The images that rows have denoised before enter their contexts without text.
  void read_images_seen(std::span<Row* const> batch, std::deque<policy::Context>& without_text) {
    std::vector<policy::Context*> contexts;
    std::deque<std::vector<Block>> seen;
    std::vector<const std::vector<Block>*> lists;
    for (size_t i = 0; i < batch.size(); ++i) {
      contexts.push_back(&without_text[i]);
      lists.push_back(&seen.emplace_back(images_seen(batch[i]->trajectory)));
    }
    append_blocks(policy_, contexts, lists);
  }

  /// The images that rows have just denoised enter their contexts.
  void read_drawn(std::span<Row* const> batch) {
    std::vector<Drawn> drawn;
    for (Row* row : batch) drawn.push_back({&row->trajectory.sample.segments.back(), &row->trajectory.flows.back()});
    decode_images(drawn);
    std::vector<Image> images;
    for (const Drawn& one : drawn) images.push_back(one.shown->image);
    auto blocks = policy_.read_images(images, /*with_latents=*/true);
    std::vector<policy::Context*> contexts;
    std::vector<const std::vector<Block>*> lists;
    for (size_t i = 0; i < batch.size(); ++i) {
      FlowSegment& segment = batch[i]->trajectory.flows.back();
      segment.context = std::move(blocks[i]);
      contexts.push_back(&batch[i]->context);
      lists.push_back(&segment.context);
    }
    append_blocks(policy_, contexts, lists);
  }

  /// What was denoised and the place where its pixels go.
  struct Drawn {
    data::SampleSegment* shown;
    const FlowSegment* segment;
    policy::LatentGrid grid() const { return segment->stream().grid; }
  };

  /// Of neighbours, all of one size.
  void decode_together(std::span<const Drawn> drawn) {
    std::vector<at::Tensor> latents;
    for (size_t m = 0; m < drawn.front().segment->streams.size(); ++m) {
      std::vector<at::Tensor> of_stream;
      for (const Drawn& one : drawn) of_stream.push_back(one.segment->streams[m].final_latent);
      latents.push_back(at::stack(of_stream));
    }
    if (clip_) {
      auto clips = policy_.clips()->decode_clips(latents, *clip_);
      for (size_t i = 0; i < drawn.size(); ++i) drawn[i].shown->clip = std::move(clips[i]);
      return;
    }
    auto images = policy_.decode(latents.front(), drawn.front().grid());
    for (size_t i = 0; i < drawn.size(); ++i) drawn[i].shown->image = std::move(images[i]);
  }

  void decode_images(std::span<const Drawn> drawn) {
    for (size_t first = 0; first < drawn.size();) {
      if (stop_before_pass(runtime_)) throw Interrupted(std::string(runtime_.stop.signal()));
      size_t last = first + 1;
      const int64_t most = images_decoded_together(drawn[first].grid().num_tokens());
      const size_t end = std::min(drawn.size(), first + static_cast<size_t>(most));
      while (last < end && drawn[last].grid() == drawn[first].grid()) ++last;
      decode_together(drawn.subspan(first, last - first));
      first = last;
    }
  }

  /// The latents of finished groups become images for those who judge and show.
  void hand_on() {
    if (finished_.empty()) return;
    std::ranges::sort(finished_);
    std::vector<Drawn> drawn;
    for (const int64_t p : finished_) {
      for (Row* row : rows_of(p)) {
        Trajectory& trajectory = row->trajectory;
        auto image = trajectory.flows.cbegin();
        for (data::SampleSegment& shown : trajectory.sample.segments) {
          if (shown.kind == SegmentKind::text) continue;
          const FlowSegment& segment = *image++;
          if (shown.image.pixels.empty() && shown.clip.frames.pixels.empty()) drawn.push_back({&shown, &segment});
        }
      }
    }
    decode_images(drawn);
    for (const int64_t p : std::exchange(finished_, {})) {
      if (!request_.on_group) continue;
      std::vector<data::Sample> group;
      for (const Row* row : rows_of(p)) group.push_back(row->trajectory.sample);
      request_.on_group(p, std::move(group));
    }
  }

  std::vector<Row*> rows_of(int64_t p) {
    std::vector<Row*> rows;
    for (int64_t g = 0; g < groups_[p].rows; ++g) rows.push_back(&rows_[groups_[p].first_row + static_cast<size_t>(g)]);
    return rows;
  }

  policy::UnifiedPolicy& policy_;
  const RolloutConfig& config_;
  const RolloutRequest& request_;
  const Runtime& runtime_;
  uint64_t seed_;
  policy::LatentGrid grid_;
  std::optional<policy::ClipShape> clip_;
  std::deque<Row> rows_;  // addresses stay
  std::vector<Group> groups_;
  bool by_text_, by_image_;  // guidance
  std::list<Row*> waiting_, decoding_;
  std::vector<Row*> denoising_;
  std::vector<int64_t> finished_;  // groups whose images are still latents
};

/// Into how many parts the prompts go: as many for each worker, and no more than leave an operation's overhead small.
int64_t num_units(int64_t workers, int64_t num_prompts, int64_t group_size) {
  const int64_t for_each = std::max<int64_t>(1, num_prompts * group_size / (workers * kRowsAUnit));
  return std::min(num_prompts, workers * for_each);
}

}  // namespace

std::optional<policy::ClipShape> clip_of(policy::UnifiedPolicy& policy, const RolloutConfig& config) {
  if (!has_segment(config, SegmentKind::av)) return std::nullopt;
  if (policy.clips() == nullptr) {
    throw BadInput("rollout.episode: expected no \"av\": the model of policy.model draws no clips");
  }
  const ClipConfig& clip = config.clip;
  return policy.clips()->clip_shape(
      {.frames = clip.frames, .height = clip.height, .width = clip.width, .fps = clip.fps});
}

RolloutEngine::RolloutEngine(policy::UnifiedPolicy& policy, const RolloutConfig& config, const Runtime& runtime,
                             const std::string& system_prompt)
    : policy_(policy),
      config_(config),
      runtime_(runtime),
      num_workers_(policy::is_small(policy) && !shares_sequences(runtime) ? num_threads(runtime) : 1) {
  if (!system_prompt.empty()) system_.push_back(policy::TextBlock{policy::block_ids(policy_, system_prompt)});
}

std::vector<Block> RolloutEngine::prefix(const data::Prompt& prompt) const {
  return prefix(prompt, data::read_prompt_images(prompt));
}

std::vector<Block> RolloutEngine::prefix(const data::Prompt& prompt, std::span<const Image> images) const {
  std::vector<Block> blocks = system_;
  for (size_t i = 0; i < images.size(); ++i) {
    try {
      auto read = policy_.read_images(images.subspan(i, 1), has_images(config_));
      std::ranges::move(read.front(), std::back_inserter(blocks));
    } catch (const BadInput& error) {
      throw BadInput("{}: {}", prompt.images[i], error.what());
    }
  }
  std::ranges::move(policy_.read_prompt(prompt.text), std::back_inserter(blocks));
  return blocks;
}

void RolloutEngine::check_length(const data::Prompt& prompt) const {
  const int64_t read = policy::num_tokens(system_) + policy_.prompt_positions(prompt.text) +
                       2 * static_cast<int64_t>(prompt.images.size());
  int64_t positions = read;
  for (const SegmentKind kind : config_.episode) positions += kind == SegmentKind::text ? config_.max_tokens + 2 : 2;
  if (positions <= policy_.max_positions()) return;
  throw BadInput(
      "prompt '{}': {} positions, and {} with all that rollout.episode and rollout.max_tokens may add; the model has "
      "{} "
      "(max_position_embeddings)",
      prompt.id, read, positions, policy_.max_positions());
}

std::vector<Trajectory> RolloutEngine::rollout(const RolloutRequest& request) {
  if (request.keys.size() != request.prompts.size()) throw std::invalid_argument("rollout: one key a prompt");
  if (has_segment(config_, SegmentKind::av) && request.guidance.text_scale != 1) {
    throw BadInput("cfg_scale: expected 1 with an av segment, got {}", request.guidance.text_scale);
  }
  const policy::Gathered weights(policy_, policy::Gathered::for_rollout(policy_));
  std::vector<int64_t> asked;  // prompts of which there is something to sample
  for (int64_t p = 0; p < static_cast<int64_t>(request.prompts.size()); ++p) {
    if (range_of(request, p).count > 0) asked.push_back(p);
  }
  const std::span<const int64_t> prompts(asked);
  const auto num_prompts = static_cast<int64_t>(prompts.size());
  const int64_t units = num_units(num_workers_, num_prompts, request.group_size);
  const int64_t workers = std::min(num_workers_, units);
  if (workers <= 1) return sample(policy_, config_, request, prompts);

  while (static_cast<int64_t>(shared_.size()) < workers - 1) shared_.push_back(policy_.share());
  RolloutConfig config = config_;
  config.token_budget /= workers;
  RolloutRequest part = request;
  std::mutex one_at_a_time;
  if (request.on_group) {
    part.on_group = [&](int64_t p, std::vector<data::Sample> group) {
      const std::lock_guard lock(one_at_a_time);
      request.on_group(p, std::move(group));
    };
  }
  std::vector<std::vector<Trajectory>> sampled(units);
  run_tasks(workers, units, [&](int64_t unit, int64_t worker) {
    policy::UnifiedPolicy& policy = worker == 0 ? policy_ : *shared_[worker - 1];
    const int64_t first = num_prompts * unit / units, last = num_prompts * (unit + 1) / units;
    sampled[unit] = sample(policy, config, part, prompts.subspan(first, last - first));
  });
  std::vector<Trajectory> all;
  for (auto& unit : sampled) {
    if (unit.empty()) return {};
    std::ranges::move(unit, std::back_inserter(all));
  }
  return all;
}

std::vector<Trajectory> RolloutEngine::sample(policy::UnifiedPolicy& policy, const RolloutConfig& config,
                                              const RolloutRequest& request, std::span<const int64_t> prompts) const {
  const Recording recording(policy, config.graphs);
  Episodes episodes(policy, config, runtime_, request);
  for (const int64_t p : prompts) {
    if (stop_before_pass(runtime_)) return {};
    check_length(request.prompts[p]);
    std::vector<Image> images = data::read_prompt_images(request.prompts[p]);
    const std::vector<Block> blocks = prefix(request.prompts[p], images);
    episodes.add_group(p, blocks, data::shared_images(std::move(images)));
  }
  policy.reserve(episodes.most_tokens());
  return episodes.run();
}

}  // namespace unigrpo::rollout
