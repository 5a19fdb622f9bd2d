#include "rollout/engine.h"

#include <algorithm>
#include <deque>
#include <list>
#include <memory>
#include <stdexcept>
#include <utility>

#include <ATen/ATen.h>

#include "rollout/image_sampler.h"
#include "rollout/text_decoder.h"

namespace unigrpo::rollout {
namespace {

constexpr int64_t kDecodeBatch = 64;  // images decoded together

void append_block(const policy::TextPolicy& policy, const std::string& text, std::vector<int64_t>& ids) {
  ids.push_back(policy.bos_id());
  const auto body = policy.tokenizer().encode(text);
  ids.insert(ids.end(), body.begin(), body.end());
  ids.push_back(policy.eos_id());
}

/// An episode on its way through the program.
struct Row {
  Trajectory trajectory;
  policy::Context context;
  StreamKey key;            // segment and purpose are set at each use
  flow::WindowRequest window;
  std::unique_ptr<TextRow> text;
};

}  // namespace

RolloutEngine::RolloutEngine(policy::UnifiedPolicy& policy, const RolloutConfig& config, uint64_t seed,
                             std::string system_prompt)
    : policy_(policy), config_(config), seed_(seed), system_prompt_(std::move(system_prompt)) {}

std::vector<int64_t> RolloutEngine::prefix_ids(const data::Prompt& prompt) const {
  std::vector<int64_t> ids;
  if (!system_prompt_.empty()) append_block(policy_, system_prompt_, ids);
  append_block(policy_, prompt.text, ids);
  return ids;
}

std::vector<Trajectory> RolloutEngine::rollout(const RolloutRequest& request) {
  const auto num_prompts = static_cast<int64_t>(request.prompts.size());
  if (static_cast<int64_t>(request.keys.size()) != num_prompts) {
    throw std::invalid_argument("rollout: one key a prompt");
  }
  const policy::LatentGrid grid = policy_.grid_for(config_.image_size);
  const int64_t block_tokens = grid.num_tokens() + 2;

  // Prefixes are read a few groups ahead of their rows and given back with the last of them.
  std::deque<Row> rows;  // addresses stay
  std::vector<policy::Context> prefixes(num_prompts);
  std::vector<std::vector<int64_t>> prefix_ids_of(num_prompts);
  std::vector<int64_t> rows_left(num_prompts, request.group_size);
  std::list<Row*> waiting, writing;
  std::vector<Row*> drawing;
  for (int64_t p = 0; p < num_prompts; ++p) {
    const data::Prompt& prompt = request.prompts[p];
    prefix_ids_of[p] = prefix_ids(prompt);
    for (int64_t g = 0; g < request.group_size; ++g) {
      Row& row = rows.emplace_back();
      const int64_t sample = request.first_sample + g;
      row.trajectory.prompt_index = p;
      row.trajectory.sample_index = sample;
      row.trajectory.prefix = prefix_ids_of[p];
      row.trajectory.sample.id = prompt.id + "/" + std::to_string(sample);
      row.trajectory.sample.prompt = prompt.text;
      row.trajectory.sample.metadata_json = prompt.metadata_json;
      row.trajectory.sample.seed = static_cast<int64_t>(seed_);
      row.key = {.seed = seed_, .step = request.step, .prompt = request.keys[p], .sample = static_cast<uint64_t>(sample)};
      row.window = {.kind = config_.sde.kind,
                    .num_steps = config_.num_steps,
                    .seed = seed_,
                    .step = request.step,
                    .prompt = request.keys[p]};
      waiting.push_back(&row);
    }
  }

  auto finish = [&](Row& row) {
    policy_.release(row.context);
    if (--rows_left[row.trajectory.prompt_index] == 0) policy_.release(prefixes[row.trajectory.prompt_index]);
  };
  // Sends a row to the next segment of the program, or ends it.
  auto advance = [&](Row& row) {
    const size_t segment = row.trajectory.segments.size();
    if (segment == config_.program.size()) {
      finish(row);
      return;
    }
    row.key.segment = segment;
    if (config_.program[segment] == "image") {
      drawing.push_back(&row);
      return;
    }
    const auto p = row.trajectory.prompt_index;
    if (segment == 0 && !request.forced_text.empty()) {
      auto ids = policy_.tokenizer().encode(request.forced_text.at(p));
      ids.push_back(policy_.eos_id());
      row.text = std::make_unique<TextRow>(&row.context, std::move(ids));
    } else {
      StreamKey key = row.key;
      key.purpose = Purpose::text_sampling;
      row.text = std::make_unique<TextRow>(&row.context, key, config_.max_tokens);
    }
    writing.push_back(&row);
  };
  auto row_tokens = [&](const Row& row) {
    return static_cast<int64_t>(row.trajectory.prefix.size()) + config_.max_tokens + 2;
  };

  while (!waiting.empty() || !writing.empty() || !drawing.empty()) {
    // Admit rows while the budget has room; at least one, or nothing would ever move.
    int64_t used = 0;
    for (const Row* row : writing) used += row_tokens(*row);
    std::vector<int64_t> fresh_prefixes;
    std::vector<Row*> admitted;
    while (!waiting.empty() && (used + row_tokens(*waiting.front()) <= config_.token_budget ||
                                (writing.empty() && admitted.empty() && drawing.empty()))) {
      Row* row = waiting.front();
      waiting.pop_front();
      used += row_tokens(*row);
      admitted.push_back(row);
      const int64_t p = row->trajectory.prompt_index;
      if (prefixes[p].slots.empty() && (fresh_prefixes.empty() || fresh_prefixes.back() != p)) fresh_prefixes.push_back(p);
    }
    if (!fresh_prefixes.empty()) {
      std::vector<policy::Context*> contexts;
      std::vector<std::vector<int64_t>> ids;
      for (const int64_t p : fresh_prefixes) {
        contexts.push_back(&prefixes[p]);
        ids.push_back(prefix_ids_of[p]);
      }
      policy_.append_text(contexts, ids);
    }
    for (Row* row : admitted) {
      row->context = policy_.fork(prefixes[row->trajectory.prompt_index]);
      advance(*row);
    }

    if (!writing.empty()) {
      std::vector<TextRow*> active;
      for (Row* row : writing) active.push_back(row->text.get());
      decode_step(policy_, active, config_.temperature);
      for (auto it = writing.begin(); it != writing.end();) {
        Row& row = **it;
        if (!row.text->closed) {
          ++it;
          continue;
        }
        it = writing.erase(it);
        row.trajectory.segments.emplace_back(std::move(row.text->segment));
        row.text.reset();
        advance(row);
      }
    }

    const int64_t draw_rows = std::max<int64_t>(1, config_.token_budget / block_tokens);
    const bool last_call = writing.empty() && (waiting.empty() || used + row_tokens(*waiting.front()) > config_.token_budget);
    while (static_cast<int64_t>(drawing.size()) >= draw_rows || (last_call && !drawing.empty())) {
      const auto count = std::min<size_t>(drawing.size(), draw_rows);
      const std::vector<Row*> batch(drawing.begin(), drawing.begin() + static_cast<int64_t>(count));
      drawing.erase(drawing.begin(), drawing.begin() + static_cast<int64_t>(count));
      std::vector<DrawRequest> draws;
      for (Row* row : batch) {
        row->window.segment = row->key.segment;
        draws.push_back({.context = &row->context,
                         .key = row->key,
                         .window = request.stochastic ? flow::choose_window(config_.window, row->window)
                                                      : flow::SdeWindow{}});
      }
      auto drawn = draw_images(policy_, config_, draws, request.guidance);
      for (size_t i = 0; i < batch.size(); ++i) {
        batch[i]->trajectory.segments.emplace_back(std::move(drawn[i]));
        advance(*batch[i]);
      }
    }
  }

  // Latents become pictures, and ids text, for those who judge and look.
  std::vector<std::pair<data::SampleSegment*, const ImageSegment*>> pictures;
  for (Row& row : rows) {
    data::Sample& sample = row.trajectory.sample;
    sample.segments.resize(row.trajectory.segments.size());
    for (size_t s = 0; s < sample.segments.size(); ++s) {
      data::SampleSegment& shown = sample.segments[s];
      if (const auto* text = std::get_if<TextSegment>(&row.trajectory.segments[s])) {
        shown.kind = data::SampleSegment::Kind::text;
        shown.text = policy_.tokenizer().decode(text->ids);
        shown.num_tokens = static_cast<int64_t>(text->ids.size());
        shown.ended = text->ended;
      } else {
        shown.kind = data::SampleSegment::Kind::image;
        pictures.emplace_back(&shown, &std::get<ImageSegment>(row.trajectory.segments[s]));
      }
    }
  }
  for (size_t first = 0; first < pictures.size(); first += kDecodeBatch) {
    const size_t last = std::min(pictures.size(), first + kDecodeBatch);
    std::vector<at::Tensor> latents;
    for (size_t i = first; i < last; ++i) latents.push_back(pictures[i].second->final_latent);
    auto images = policy_.decode(at::stack(latents), grid);
    for (size_t i = first; i < last; ++i) pictures[i].first->image = std::move(images[i - first]);
  }
  std::vector<Trajectory> trajectories;
  for (Row& row : rows) trajectories.push_back(std::move(row.trajectory));
  return trajectories;
}

}  // namespace unigrpo::rollout
