// BAGEL with a key/value cache: what rollouts and sampling run.
#include <ATen/ATen.h>

#include <numeric>
#include <optional>

#include "policy/bagel/bagel.h"
#include "tensor/convert.h"

namespace unigrpo::policy {
namespace {

using tensor::index_tensor;

/// Image blocks of several rows, each at one rotary position: boundary tokens first, two a row, then the images'
/// tokens, row after row. `contexts` have room for the blocks already; positions are those before the blocks.
struct ImageRows {
  std::vector<nn::QueryBlock> blocks;
  std::vector<int64_t> positions, slots;
};

ImageRows place_images(std::span<const Context* const> contexts, std::span<const int64_t> tokens) {
  ImageRows rows;
  int64_t total = 2 * static_cast<int64_t>(contexts.size());
  for (const int64_t count : tokens) total += count;
  rows.positions.resize(total);
  rows.slots.resize(total);
  int64_t next = 2 * static_cast<int64_t>(contexts.size());
  for (size_t i = 0; i < contexts.size(); ++i) {
    const Context& context = *contexts[i];
    const int64_t boundary = 2 * static_cast<int64_t>(i);
    nn::QueryBlock block;
    block.causal = false;
    block.keys = context.slots;
    block.queries.push_back(boundary);
    for (int64_t k = 0; k < tokens[i]; ++k) block.queries.push_back(next++);
    block.queries.push_back(boundary + 1);
    const size_t first_slot = context.slots.size() - block.queries.size();
    for (size_t k = 0; k < block.queries.size(); ++k) {
      rows.positions[block.queries[k]] = context.position;
      rows.slots[block.queries[k]] = context.slots[first_slot + k];
    }
    rows.blocks.push_back(std::move(block));
  }
  return rows;
}

}  // namespace

void Bagel::append_images(std::span<Context* const> rows, std::span<const Block> blocks) {
  const at::NoGradGuard no_grad;
  if (rows.empty()) return;
  std::vector<const LatentBlock*> clean;
  std::vector<const VisionBlock*> seen;
  for (const Block& block : blocks) {
    if (const auto* image = std::get_if<LatentBlock>(&block)) clean.push_back(image);
    if (const auto* image = std::get_if<VisionBlock>(&block)) seen.push_back(image);
  }
  if (clean.size() != blocks.size() && seen.size() != blocks.size()) {
    throw std::invalid_argument("append_images: clean images of one kind");
  }
  const bool latents = seen.empty();
  std::vector<const Context*> readers;
  std::vector<int64_t> counts, boundary;
  for (size_t i = 0; i < rows.size(); ++i) {
    readers.push_back(rows[i]);
    counts.push_back(latents ? clean[i]->grid.num_tokens() : seen[i]->grid.num_tokens());
    boundary.insert(boundary.end(), {image_start_, image_end_});
    cache_.extend(*rows[i], counts.back() + 2);
  }
  const ImageRows placed = place_images(readers, counts);
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t position = rows[i]->position++, visible = static_cast<int64_t>(rows[i]->slots.size());
    if (latents) {
      rows[i]->digest.add_image(*clean[i], position, visible);
    } else {
      rows[i]->digest.add_image(*seen[i], position, visible);
    }
  }
  const auto num_rows = static_cast<int64_t>(placed.positions.size());
  const auto layout =
      std::make_shared<nn::AttentionLayout>(placed.blocks, std::vector<int64_t>{}, num_rows, llm_->options());
  PackedTokens tokens{.num_und = latents ? 2 * static_cast<int64_t>(rows.size()) : num_rows,
                      .position_ids = index_tensor(placed.positions),
                      .layout = layout,
                      .cache_slots = index_tensor(placed.slots)};
  at::Tensor boundary_ids = index_tensor(boundary);
  tokens.send(device(), {&boundary_ids});
  const at::Tensor embeds =
      at::cat({llm_->embed(boundary_ids), latents ? embed_clean_latents(clean) : embed_vision(seen)}, 0);
  llm_->forward(embeds, tokens, &cache_);
}

/// One image block a row: boundary tokens (understanding weights) around the latents, all at one rotary position.
class BagelDenoiser final : public Denoiser {
 public:
  BagelDenoiser(Bagel& model, std::span<const Context* const> rows, LatentGrid grid) : model_(model), grid_(grid) {
    const auto b = static_cast<int64_t>(rows.size());
    std::vector<int64_t> boundary;
    std::vector<const Context*> readers;
    scratch_.reserve(rows.size());  // addresses stay
    for (const Context* row : rows) {
      Context& scratch = scratch_.emplace_back(model.cache_.fork(*row));
      model.cache_.extend(scratch, grid.num_tokens() + 2);
      readers.push_back(&scratch);
      boundary.insert(boundary.end(), {model.image_start_, model.image_end_});
    }
    const ImageRows placed = place_images(readers, std::vector<int64_t>(rows.size(), grid.num_tokens()));
    const at::NoGradGuard no_grad;
    packed_ = packed(model, placed, 2 * b);
    at::Tensor boundary_ids = index_tensor(boundary);
    packed_.send(model.device(), {&boundary_ids});
    boundary_ = model.llm_->embed(boundary_ids);
    if (model.graphs()) {
      recorded_.emplace(
          model.graphs(), [this](const std::vector<at::Tensor>& in) { return step(in[0], in[1]); }, /*plain_calls=*/1);
    }
  }
  ~BagelDenoiser() override {
    for (Context& context : scratch_) model_.cache_.release(context);
  }
  BagelDenoiser(const BagelDenoiser&) = delete;
  BagelDenoiser& operator=(const BagelDenoiser&) = delete;

  std::vector<at::Tensor> velocities(std::span<const at::Tensor> latents, const at::Tensor& t) override {
    const at::NoGradGuard no_grad;
    return {recorded_ ? (*recorded_)({latents.front(), t}) : step(latents.front(), t)};
  }

 private:
  at::Tensor step(const at::Tensor& latents, const at::Tensor& t) {
    const at::Tensor embeds = at::cat({boundary_, model_.embed_latents(latents, t, grid_)}, 0);
    const auto& share = packed_.share;
    const at::Tensor own = share ? embeds.index_select(0, own_rows_) : embeds;
    const at::Tensor hidden = model_.llm_->forward(own, packed_, &model_.cache_);
    const at::Tensor drawn = hidden.narrow(0, packed_.num_und, hidden.size(0) - packed_.num_und);
    at::Tensor velocity = model_.llm2vae_(drawn).to(at::kFloat);
    if (share) velocity = share->gathered(velocity, latent_rows_, nn::GatheredGradient::alike);
    return velocity.view(latents.sizes());
  }

  /// Ranks that share the rows have each the queries of its own, of every image some.
  PackedTokens packed(const Bagel& model, ImageRows placed, int64_t num_und) {
    const auto num_rows = static_cast<int64_t>(placed.positions.size());
    PackedTokens tokens{.num_und = num_und,
                        .position_ids = index_tensor(placed.positions),
                        .layout = nullptr,
                        .cache_slots = index_tensor(placed.slots)};
    int64_t num_queries = num_rows;
    if (const nn::RankGroup ranks = model.denoising_ranks()) {
      const auto share = std::make_shared<nn::SequenceShare>(ranks, num_und, num_rows);
      const at::Tensor own = index_tensor(share->rows());
      num_queries = own.size(0);
      for (nn::QueryBlock& block : placed.blocks) block.queries = share->held(block.queries);
      std::erase_if(placed.blocks, [](const nn::QueryBlock& block) { return block.queries.empty(); });
      tokens.num_und = share->num_und();
      tokens.position_ids = tokens.position_ids.index_select(0, own);
      tokens.cache_slots = tokens.cache_slots.index_select(0, index_tensor(share->rank_order()));
      tokens.share = share;
      own_rows_ = own.to(model.device());
      latent_rows_.resize(static_cast<size_t>(num_rows - num_und));
      std::iota(latent_rows_.begin(), latent_rows_.end(), num_und);
    }
    tokens.layout = std::make_shared<nn::AttentionLayout>(placed.blocks, std::vector<int64_t>{}, num_queries,
                                                          model.llm_->options());
    return tokens;
  }

  Bagel& model_;
  LatentGrid grid_;
  std::vector<Context> scratch_;
  PackedTokens packed_;
  std::vector<int64_t> latent_rows_;  // of all rows, where ranks share them
  at::Tensor own_rows_;               // on the device
  at::Tensor boundary_;
  std::optional<tensor::RecordedStep> recorded_;
};

std::unique_ptr<Denoiser> Bagel::denoise(std::span<const Context* const> rows, LatentGrid grid) {
  return std::make_unique<BagelDenoiser>(*this, rows, grid);
}

}  // namespace unigrpo::policy
