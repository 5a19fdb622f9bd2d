#include "rollout/engine.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <deque>
#include <iterator>
#include <list>
#include <memory>
#include <stdexcept>
#include <utility>

#include "base/error.h"
#include "data/prompt_file.h"
#include "rollout/image_sampler.h"
#include "rollout/text_decoder.h"

namespace unigrpo::rollout {
namespace {

using policy::Block;

constexpr int64_t kDecodeBatch = 64;  // images decoded together

bool draws(const RolloutConfig& config) { return std::ranges::find(config.program, "image") != config.program.end(); }

/// Appends row i's blocks to contexts[i], in calls as large as the kinds allow.
void append_blocks(policy::UnifiedPolicy& policy, std::span<policy::Context* const> contexts,
                   std::span<const std::vector<Block>* const> blocks) {
  size_t depth = 0;
  for (const auto* list : blocks) depth = std::max(depth, list->size());
  for (size_t k = 0; k < depth; ++k) {
    std::vector<policy::Context*> readers;
    std::vector<std::vector<int64_t>> ids;
    for (size_t i = 0; i < blocks.size(); ++i) {
      if (k >= blocks[i]->size() || (*blocks[i])[k].kind != Block::Kind::text) continue;
      readers.push_back(contexts[i]);
      ids.push_back((*blocks[i])[k].ids);
    }
    if (!readers.empty()) policy.append_text(readers, ids);
    for (const Block::Kind kind : {Block::Kind::latents, Block::Kind::vision}) {
      readers.clear();
      std::vector<Block> images;
      for (size_t i = 0; i < blocks.size(); ++i) {
        if (k >= blocks[i]->size() || (*blocks[i])[k].kind != kind) continue;
        readers.push_back(contexts[i]);
        images.push_back((*blocks[i])[k]);
      }
      if (!readers.empty()) policy.append_images(readers, images);
    }
  }
}

/// The size at which a prompt's pictures are changed: that of the last one, as the policy reads it.
policy::LatentGrid grid_of(const std::vector<Block>& prefix, policy::LatentGrid otherwise) {
  for (const Block& block : prefix) {
    if (block.kind == Block::Kind::latents) otherwise = block.grid;
  }
  return otherwise;
}

/// The images that an episode has drawn so far, as its later segments read them.
std::vector<Block> images_seen(const Trajectory& trajectory) {
  std::vector<Block> blocks;
  for (const Segment& segment : trajectory.segments) {
    if (const auto* image = std::get_if<ImageSegment>(&segment)) {
      blocks.insert(blocks.end(), image->context.begin(), image->context.end());
    }
  }
  return blocks;
}

/// An episode on its way through the program.
struct Row {
  Trajectory trajectory;
  policy::LatentGrid grid;
  policy::Context context;
  StreamKey key;  // segment and purpose are set at each use
  flow::WindowRequest window;
  int64_t tokens = 0;  // that it may come to hold in the cache
  std::unique_ptr<TextRow> text;
};

/// One call of rollout(): rows wait, write, draw, and write again until the program ends.
class Episodes {
 public:
  Episodes(policy::UnifiedPolicy& policy, const RolloutConfig& config, uint64_t seed, const RolloutRequest& request)
      : policy_(policy),
        config_(config),
        request_(request),
        seed_(seed),
        grid_(draws(config) ? policy.grid_for(config.image_size) : policy::LatentGrid{}),
        groups_(request.prompts.size()),
        by_text_(draws(config) && request.guidance.text_scale > 1),
        by_image_(by_text_ && request.guidance.image_scale > 1) {
    for (Group& group : groups_) group.rows_left = request.group_size;
  }

  void add_group(int64_t p, const std::vector<Block>& prefix, const std::vector<std::shared_ptr<const Image>>& images) {
    const data::Prompt& prompt = request_.prompts[p];
    for (int64_t g = 0; g < request_.group_size; ++g) {
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

  std::vector<Trajectory> run() {
    while (!waiting_.empty() || !writing_.empty() || !drawing_.empty()) {
      admit();
      write();
      draw();
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
    int64_t rows_left = 0;
  };

  /// Tokens that a row may come to hold in the cache.
  int64_t tokens_for(const Row& row) const {
    int64_t tokens = policy::num_tokens(row.trajectory.prefix);
    const int64_t image = 2 * (row.grid.num_tokens() + 2);  // as VAE tokens, and about as many of the vision tower
    int64_t texts = 0;
    for (size_t s = 0; s < config_.program.size(); ++s) {
      if (config_.program[s] == "text") ++texts;
      if (config_.program[s] == "image" && s + 1 < config_.program.size()) tokens += image;
    }
    return tokens + std::max<int64_t>(texts, 1) * (config_.max_tokens + 2);
  }

  int64_t tokens_held() const {
    int64_t tokens = 0;
    for (const Row* row : writing_) tokens += row->tokens;
    for (const Row* row : drawing_) tokens += row->tokens;
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
                                 (writing_.empty() && drawing_.empty() && admitted.empty()))) {
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
                             [](const Block& b) { return b.kind == Block::Kind::text; });
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

  /// Sends a row to the next segment of the program, or ends it.
  void advance(Row& row) {
    const size_t segment = row.trajectory.segments.size();
    if (segment == config_.program.size()) {
      policy_.release(row.context);
      Group& group = groups_[row.trajectory.prompt_index];
      if (--group.rows_left > 0) return;
      finished_.push_back(row.trajectory.prompt_index);
      for (policy::Context* context : {&group.prefix, &group.without_text, &group.without_image})
        policy_.release(*context);
      return;
    }
    row.key.segment = segment;
    if (config_.program[segment] == "image") {
      drawing_.push_back(&row);
      return;
    }
    if (segment == 0 && !request_.forced_text.empty()) {
      auto ids = policy_.tokenizer().encode(request_.forced_text.at(row.trajectory.prompt_index));
      ids.push_back(policy_.eos_id());
      row.text = std::make_unique<TextRow>(&row.context, std::move(ids));
    } else {
      StreamKey key = row.key;
      key.purpose = Purpose::text_sampling;
      row.text = std::make_unique<TextRow>(&row.context, key, config_.max_tokens);
    }
    writing_.push_back(&row);
  }

  /// One token for every row that writes.
  void write() {
    if (writing_.empty()) return;
    std::vector<TextRow*> active;
    for (Row* row : writing_) active.push_back(row->text.get());
    decode_step(policy_, active, config_.temperature);
    for (auto it = writing_.begin(); it != writing_.end();) {
      Row& row = **it;
      if (!row.text->closed) {
        ++it;
        continue;
      }
      it = writing_.erase(it);
      TextSegment& segment = row.text->segment;
      segment.conditions = conditions_of(row.context.digest, segment, config_, policy_);
      data::SampleSegment& shown = row.trajectory.sample.segments.emplace_back();
      shown.kind = data::SampleSegment::Kind::text;
      shown.text = policy_.tokenizer().decode(segment.ids);
      shown.num_tokens = static_cast<int64_t>(segment.ids.size());
      shown.ended = segment.ended;
      row.trajectory.segments.emplace_back(std::move(segment));
      row.text.reset();
      advance(row);
    }
  }

  /// Draws in full batches, and what is left once nobody is going to join.
  void draw() {
    const bool no_room = waiting_.empty() || tokens_held() + waiting_.front()->tokens > config_.token_budget;
    while (!drawing_.empty()) {
      const policy::LatentGrid grid = drawing_.front()->grid;
      const int64_t most = std::max<int64_t>(1, config_.token_budget / (grid.num_tokens() + 2));
      std::vector<Row*> batch, others;
      for (Row* row : drawing_) {
        (row->grid == grid && static_cast<int64_t>(batch.size()) < most ? batch : others).push_back(row);
      }
      // Writing rows may join, among them those that have just drawn and go on with the program.
      if (static_cast<int64_t>(batch.size()) < most && !(no_room && writing_.empty())) return;
      drawing_ = std::move(others);
      std::vector<DrawRequest> draws;
      std::deque<policy::Context> looks;  // addresses stay
      for (Row* row : batch) {
        row->window.segment = row->key.segment;
        Group& group = groups_[row->trajectory.prompt_index];
        draws.push_back(
            {.context = &row->context,
             .without_text = by_text_ ? &looks.emplace_back(policy_.fork(group.without_text)) : nullptr,
             .without_image = &group.without_image,
             .key = row->key,
             .window = request_.stochastic ? flow::choose_window(config_.window, row->window) : flow::SdeWindow{}});
      }
      if (by_text_) look_back(batch, looks);
      auto drawn = draw_images(policy_, config_, draws, grid, request_.guidance);
      for (policy::Context& context : looks) policy_.release(context);
      for (size_t i = 0; i < batch.size(); ++i) {
        drawn[i].conditions = conditions_of(batch[i]->context.digest, drawn[i], config_, policy_);
        batch[i]->trajectory.sample.segments.emplace_back().kind = data::SampleSegment::Kind::image;
        batch[i]->trajectory.segments.emplace_back(std::move(drawn[i]));
      }
      if (batch.front()->trajectory.segments.size() < config_.program.size()) look_at(batch);
      for (Row* row : batch) advance(*row);
    }
  }

  /// The images that rows have drawn before enter their contexts without text.
  void look_back(std::span<Row* const> batch, std::deque<policy::Context>& looks) {
    std::vector<policy::Context*> contexts;
    std::deque<std::vector<Block>> seen;
    std::vector<const std::vector<Block>*> lists;
    for (size_t i = 0; i < batch.size(); ++i) {
      contexts.push_back(&looks[i]);
      lists.push_back(&seen.emplace_back(images_seen(batch[i]->trajectory)));
    }
    append_blocks(policy_, contexts, lists);
  }

  /// The images that rows have just drawn enter their contexts.
  void look_at(std::span<Row* const> batch) {
    std::vector<std::pair<data::SampleSegment*, const ImageSegment*>> pictures;
    for (Row* row : batch) pictures.push_back(picture_of(*row, row->trajectory.segments.size() - 1));
    decode(pictures);
    std::vector<Image> images;
    for (const auto& [shown, segment] : pictures) images.push_back(shown->image);
    auto blocks = policy_.read_images(images, /*with_latents=*/true);
    std::vector<policy::Context*> contexts;
    std::vector<const std::vector<Block>*> lists;
    for (size_t i = 0; i < batch.size(); ++i) {
      auto& segment = std::get<ImageSegment>(batch[i]->trajectory.segments.back());
      segment.context = std::move(blocks[i]);
      contexts.push_back(&batch[i]->context);
      lists.push_back(&segment.context);
    }
    append_blocks(policy_, contexts, lists);
  }

  std::pair<data::SampleSegment*, const ImageSegment*> picture_of(Row& row, size_t segment) {
    return {&row.trajectory.sample.segments[segment], &std::get<ImageSegment>(row.trajectory.segments[segment])};
  }

  void decode(std::span<const std::pair<data::SampleSegment*, const ImageSegment*>> pictures) {
    for (size_t first = 0; first < pictures.size();) {
      size_t last = first + 1;
      while (last < std::min(pictures.size(), first + kDecodeBatch) &&
             pictures[last].second->grid == pictures[first].second->grid) {
        ++last;
      }
      std::vector<at::Tensor> latents;
      for (size_t i = first; i < last; ++i) latents.push_back(pictures[i].second->final_latent);
      auto images = policy_.decode(at::stack(latents), pictures[first].second->grid);
      for (size_t i = first; i < last; ++i) pictures[i].first->image = std::move(images[i - first]);
      first = last;
    }
  }

  /// The latents of finished groups become pictures for those who judge and look.
  void hand_on() {
    if (finished_.empty()) return;
    std::ranges::sort(finished_);
    std::vector<std::pair<data::SampleSegment*, const ImageSegment*>> pictures;
    for (const int64_t p : finished_) {
      for (int64_t g = 0; g < request_.group_size; ++g) {
        Row& row = row_of(p, g);
        for (size_t s = 0; s < row.trajectory.segments.size(); ++s) {
          if (!std::holds_alternative<ImageSegment>(row.trajectory.segments[s])) continue;
          const auto picture = picture_of(row, s);
          if (picture.first->image.pixels.empty()) pictures.push_back(picture);
        }
      }
    }
    decode(pictures);
    for (const int64_t p : std::exchange(finished_, {})) {
      if (!request_.on_group) continue;
      std::vector<data::Sample> group;
      for (int64_t g = 0; g < request_.group_size; ++g) group.push_back(row_of(p, g).trajectory.sample);
      request_.on_group(p, std::move(group));
    }
  }

  Row& row_of(int64_t p, int64_t g) { return rows_[static_cast<size_t>(p * request_.group_size + g)]; }

  policy::UnifiedPolicy& policy_;
  const RolloutConfig& config_;
  const RolloutRequest& request_;
  uint64_t seed_;
  policy::LatentGrid grid_;
  std::deque<Row> rows_;  // addresses stay
  std::vector<Group> groups_;
  bool by_text_, by_image_;  // guidance
  std::list<Row*> waiting_, writing_;
  std::vector<Row*> drawing_;
  std::vector<int64_t> finished_;  // groups whose pictures are still latents
};

}  // namespace

RolloutEngine::RolloutEngine(policy::UnifiedPolicy& policy, const RolloutConfig& config, uint64_t seed,
                             const std::string& system_prompt)
    : policy_(policy), config_(config), seed_(seed) {
  if (!system_prompt.empty()) system_.push_back(policy::text_block(policy::block_ids(policy_, system_prompt)));
}

std::vector<Block> RolloutEngine::prefix(const data::Prompt& prompt) const {
  return prefix(prompt, data::read_prompt_images(prompt));
}

std::vector<Block> RolloutEngine::prefix(const data::Prompt& prompt, std::span<const Image> images) const {
  std::vector<Block> blocks = system_;
  for (size_t i = 0; i < images.size(); ++i) {
    try {
      auto read = policy_.read_images(images.subspan(i, 1), draws(config_));
      std::ranges::move(read.front(), std::back_inserter(blocks));
    } catch (const BadInput& error) {
      throw BadInput("{}: {}", prompt.images[i], error.what());
    }
  }
  blocks.push_back(policy::text_block(policy::block_ids(policy_, prompt.text)));
  return blocks;
}

void RolloutEngine::check_length(const data::Prompt& prompt) const {
  const int64_t read = policy::num_tokens(system_) +
                       static_cast<int64_t>(policy::block_ids(policy_, prompt.text).size()) +
                       2 * static_cast<int64_t>(prompt.images.size());
  int64_t positions = read;
  for (const std::string& segment : config_.program) positions += segment == "text" ? config_.max_tokens + 2 : 2;
  if (positions <= policy_.max_positions()) return;
  throw BadInput(
      "prompt '{}': {} positions, and {} with all that rollout.program and rollout.max_tokens may add; the model has "
      "{} "
      "(max_position_embeddings)",
      prompt.id, read, positions, policy_.max_positions());
}

std::vector<Trajectory> RolloutEngine::rollout(const RolloutRequest& request) {
  if (request.keys.size() != request.prompts.size()) throw std::invalid_argument("rollout: one key a prompt");
  Episodes episodes(policy_, config_, seed_, request);
  for (size_t p = 0; p < request.prompts.size(); ++p) {
    check_length(request.prompts[p]);
    std::vector<Image> images = data::read_prompt_images(request.prompts[p]);
    const std::vector<Block> blocks = prefix(request.prompts[p], images);
    std::vector<std::shared_ptr<const Image>> shared;
    for (Image& image : images) shared.push_back(std::make_shared<const Image>(std::move(image)));
    episodes.add_group(static_cast<int64_t>(p), blocks, shared);
  }
  return episodes.run();
}

}  // namespace unigrpo::rollout
